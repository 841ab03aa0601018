"""The confusion matrix shows percents of the true class."""

import numpy as np
import pytest

from segmentation import plots
from segmentation.classes import Classes
from tests.segmentation.plots.drawn import assert_fits


def test_rows_are_percents_of_the_true_class() -> None:
    labels = Classes.named("road", "sky", "car")
    figure = plots.confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), labels, "t")
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(np.asarray(shown), [[0.75, 0.25], [0, 1]])
    assert figure.get_suptitle() == "t"
    assert [each.get_text() for each in figure.axes[0].texts] == ["75", "25", "100"]
    assert "neither labelled nor predicted: car" in [each.get_text() for each in figure.texts]
    predicted = plots.confusion(np.array([[3, 0, 1], [0, 2, 0], [0, 0, 0]]), labels, "t")
    assert len(predicted.axes[0].get_xticklabels()) == 3, "a predicted class has a column"


@pytest.mark.parametrize("classes", [2, 21])
def test_a_matrix_of_any_size_fits(classes: int) -> None:
    labels = Classes.named(*(f"class {index}" for index in range(classes)))
    counts = np.eye(classes, dtype=np.int64)
    assert_fits(plots.confusion(counts, labels, "camvid/val, 101 images\nepoch 30 of 30"))
    counts[1:] = 0
    assert_fits(plots.confusion(counts, labels, "camvid/val, 101 images\nepoch 30 of 30"))
    assert_fits(plots.confusion(0 * counts, labels, "no image"))
