"""The best constant prediction, beside scipy's entropy and scikit-learn's scores of it."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, jaccard_score

from segmentation.scoring.baseline import baseline, never_predicted, only_predicted


@pytest.mark.parametrize("labelled", [[50, 30, 20, 0], [0, 7, 0], [1, 1, 2]])
def test_the_baseline_is_that_of_predicting_the_most_frequent_class_everywhere(labelled: list[int]) -> None:
    true = np.repeat(np.arange(len(labelled)), labelled)
    constant = np.full_like(true, np.bincount(true).argmax())
    found = baseline(labelled)
    assert found.most_frequent == constant[0]
    assert found.loss == pytest.approx(entropy(labelled))
    assert found.pixel_accuracy == pytest.approx(accuracy_score(true, constant))
    assert found.mean_iou == pytest.approx(jaccard_score(true, constant, average="macro", zero_division=0))


def test_no_labelled_pixel_has_no_baseline() -> None:
    with pytest.raises(ValueError, match="no labelled pixel"):
        baseline([0, 0])


def test_classes_never_predicted() -> None:
    counts = np.array([[5, 1, 0, 0], [2, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]])
    assert never_predicted(counts) == [2], "class 3 is not labelled"
    assert only_predicted(counts) is None
    counts = np.array([[5, 0], [2, 0]])
    assert never_predicted(counts) == [1]
    assert only_predicted(counts) == 0
    assert only_predicted(np.array([[5, 0], [0, 0]])) is None, "the labels hold one class only"
