"""The confusion matrix shows percents of the true class."""

import numpy as np
import pytest

from segmentation import plots
from segmentation.classes import Classes
from tests.segmentation.plots.drawn import assert_fits, texts


def test_rows_are_percents_of_the_true_class() -> None:
    labels = Classes.named("road", "sky", "car")
    figure = plots.confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), labels, "t")
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(np.asarray(shown[:2]), [[0.75, 0.25, 0], [0, 1, 0]])
    assert figure.get_suptitle() == "t"
    assert texts(figure).split() == ["75", "25", "100"]


@pytest.mark.parametrize("classes", [2, 21])
def test_a_matrix_of_any_size_fits(classes: int) -> None:
    labels = Classes.named(*(f"class {index}" for index in range(classes)))
    assert_fits(plots.confusion(np.eye(classes, dtype=np.int64), labels, "camvid/val, 101 images\nepoch 30 of 30"))
