"""Pictures show the numbers they are given, and only those."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from segmentation import plots
from segmentation.calibration import Bins
from segmentation.labels import Labels
from segmentation.resampling import Interval

LABELS = Labels.named("road", "sky", "car")


def bins() -> Bins:
    count = np.array([0, 0, 0, 4, 10, 0, 20, 0, 30, 936])
    confidence = np.array([0, 0, 0, 0.35, 0.45, 0, 0.66, 0, 0.84, 0.98])
    accuracy = np.array([0, 0, 0, 0.5, 0.4, 0, 0.5, 0, 0.9, 0.95])
    return Bins(count, confidence * count, np.round(accuracy * count).astype(np.int64))


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_reliability_bars_are_the_numbers_of_the_bins() -> None:
    numbers = bins()
    figure = plots.reliability(numbers, "a title", Interval(0.0123, 0.0456))
    top, bottom = figure.axes
    filled = numbers.count > 0
    bars = [patch for patch in top.patches if patch.get_hatch() is None]
    gaps = [patch for patch in top.patches if patch.get_hatch() is not None]
    assert [bar.get_height() for bar in bars] == numbers.accuracy[filled].tolist()
    heights = [gap.get_height() for gap in gaps]
    np.testing.assert_allclose(heights, -numbers.gap[filled], atol=1e-12)
    shares = [bar.get_height() for bar in bottom.patches]
    assert shares == numbers.share[filled].tolist()
    assert f"ECE {numbers.ece():.4f} [0.0123, 0.0456]" in texts(figure)
    assert f"MCE {numbers.mce():.4f}" in texts(figure)
    assert "over-confident by" in texts(figure)
    assert top.get_title() == "a title"


def test_curves_are_the_values_over_epochs_from_one() -> None:
    figure = plots.curves("Loss", "nats", {"train": [3.0, 2.0, 1.0], "val": [3.5, 3.0, 2.9]}, best_epoch=3)
    train, val, best = figure.axes[0].lines
    assert np.asarray(train.get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(val.get_ydata()).tolist() == [3.5, 3.0, 2.9]
    assert next(iter(np.asarray(best.get_xdata()))) == 3


def test_confusion_shows_shares_of_the_true_class() -> None:
    figure = plots.confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), LABELS, "t")
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(np.asarray(shown[:2]), [[0.75, 0.25, 0], [0, 1, 0]])
    assert texts(figure).split() == ["75", "25", "100"]


def test_an_example_marks_what_was_wrong_and_names_the_classes_present() -> None:
    truth = np.array([[0, 0], [1, 255]], np.uint8)
    predicted = np.array([[0, 1], [1, 1]])
    image = np.full((2, 2, 3), 100, np.uint8)
    figure = plots.example(image, truth, predicted, np.full((2, 2), 0.5), LABELS, "t")
    errors = np.asarray(figure.axes[4].images[0].get_array())
    red = (errors == (197, 48, 48)).all(-1)
    assert red.tolist() == [[False, True], [False, False]]
    assert "wrong: 33.3% of pixels" in figure.axes[4].get_title()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "sky", "void"]


@pytest.mark.parametrize("classes", [2, 21])
def test_pictures_render_without_touching_pyplot(classes: int) -> None:
    labels = Labels.named(*(f"class {index}" for index in range(classes)))
    picture = plots.pixels(plots.confusion(np.eye(classes, dtype=np.int64), labels, "t"))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert plots.pixels(plots.reliability(bins(), "t")).std() > 10
    assert not pyplot.get_fignums()
