"""Segmented images show the classes and the wrong pixels."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from segmentation import plots
from segmentation.classes import Classes
from tests.segmentation.plots.drawn import RUNS, assert_fits, legend

LABELS = Classes.named("road", "sky", "car")
IMAGE = np.full((2, 2, 3), 100, np.uint8)
TRUTH = np.array([[0, 0], [1, 255]], np.uint8)
PREDICTED = np.array([[0, 1], [1, 1]])


def shown(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_an_example_marks_what_was_wrong_and_names_the_classes_present() -> None:
    confidence = np.array([[0.2, 0.4], [0.6, 0.8]])
    figure = plots.example(IMAGE, TRUTH, PREDICTED, confidence, LABELS, "t")
    (axes,) = figure.axes
    image, truth, predicted, sure, bar, wrong = (np.asarray(each.get_array()) for each in axes.images)
    assert (image == IMAGE).all()
    assert (truth == LABELS.in_plots(TRUTH)).all()
    assert (predicted == LABELS.in_plots(PREDICTED)).all()
    assert (sure == confidence).all()
    assert (bar[0], bar[-1]) == (1, 0)
    assert (wrong == (197, 48, 48)).all(-1).tolist() == [[False, True], [False, False]]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["image", "truth", "prediction", "confidence", "0", "0.5", "1", "wrong: 33.3% of pixels"]
    assert legend(figure) == ["road", "sky", "void"]


def test_models_are_side_by_side_with_their_accuracy() -> None:
    predictions = {"unet": PREDICTED, "fcn": np.array([[0, 0], [1, 2]])}
    figure = plots.side_by_side(IMAGE, TRUTH, predictions, LABELS, "a title")
    image, truth, unet, fcn = figure.axes
    assert (shown(image) == IMAGE).all()
    assert (shown(truth) == LABELS.in_plots(TRUTH)).all()
    assert (shown(unet) == LABELS.in_plots(PREDICTED)).all()
    assert unet.get_title() == "unet\ncorrect: 66.7% of pixels"
    assert fcn.get_title() == "fcn\ncorrect: 100.0% of pixels"
    assert legend(figure) == ["road", "sky", "car", "void"]
    assert figure.get_suptitle() == "a title"


@pytest.mark.parametrize("count", [0, 1, 8])
def test_panels_fit_for_any_number_and_names(count: int) -> None:
    labels = Classes.named(*(f"a class {index}" for index in range(21)))
    truth = np.arange(32 * 48).reshape(32, 48) % 21
    image = np.zeros((32, 48, 3), np.uint8)
    figure = plots.side_by_side(image, truth, dict.fromkeys(RUNS[:count], truth), labels, "0016E5_07965, camvid/val")
    assert sum(bool(axes.images) for axes in figure.axes) == count + 2
    assert len(legend(figure)) == 21
    assert_fits(figure)
    assert_fits(plots.example(image, truth, truth, truth / 21, labels, "0016E5_07965, camvid/val"))


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    labels = Classes.named("_background_", "cat", "dog")
    assert legend(plots.side_by_side(IMAGE, TRUTH, {}, labels, "t")) == ["_background_", "cat", "void"]


def test_an_image_of_void_alone_has_no_accuracy() -> None:
    void = np.full((2, 2), 255, np.uint8)
    figure = plots.side_by_side(IMAGE, void, {"unet": PREDICTED}, LABELS, "t")
    assert figure.axes[2].get_title() == "unet\ncorrect: – (all void)"
    plots.pixels(plots.example(IMAGE, void, PREDICTED, np.zeros((2, 2)), LABELS, "t"))
