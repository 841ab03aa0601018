"""Segmented images: one prediction in detail, or the predictions of several models side by side."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from segmentation.classes import VOID, Classes
from segmentation.plots.style import LINE, blank, foot, head, wrapped

PANEL = 2.5
"""Width of a panel in inches."""
COLUMNS = 5
"""Most panels in a row."""
HEADING, NAME = 17, 14
"""Font sizes in points of titles and of the panels' names: plots as wide as these are shown at half their size."""


def example(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, labels: Classes, title: str
) -> Figure:
    """One image with its true and predicted classes, the confidence, and the wrong pixels.

    Args:
        image: `(H, W, 3)` uint8.
        truth: `(H, W)` class indices, 255 is void.
        predicted: `(H, W)` class indices.
        confidence: `(H, W)` in [0, 1].
        labels: names and colours; the legend lists the classes in the panels.
        title: above the panels.
    """
    height, width = truth.shape
    figure = blank(5 * PANEL + 0.7, PANEL * height / width + 0.4)
    panels = figure.subplots(1, 5)
    valid = truth != VOID
    wrong = valid & (predicted != truth)
    errors = (0.35 * image + 0.65 * 255).astype(np.uint8)
    errors[wrong] = (197, 48, 48)
    errors[~valid] = (224, 224, 224)
    _show(panels[0], image, "image")
    _show(panels[1], labels.colours(truth), "truth")
    _show(panels[2], labels.colours(predicted), "prediction")
    drawn = _show(panels[3], confidence, "confidence")
    _show(panels[4], errors, f"wrong: {_fraction(wrong, valid)}")
    figure.colorbar(drawn, ax=panels[3], fraction=0.046, pad=0.03).ax.tick_params(labelsize=NAME - 2)
    head(figure, title, HEADING)
    foot(figure, _present(labels, truth, predicted), size=NAME)
    return figure


def side_by_side(
    image: np.ndarray, truth: np.ndarray, predictions: Mapping[str, np.ndarray], labels: Classes, title: str
) -> Figure:
    """One image with its true classes and the prediction of each model, with the fraction of correct pixels.

    Args:
        image: `(H, W, 3)` uint8.
        truth: `(H, W)` class indices, 255 is void.
        predictions: `(H, W)` class indices by the name of the model.
        labels: names and colours; the legend lists the classes in the panels.
        title: above the panels.
    """
    height, width = truth.shape
    valid = truth != VOID
    shown = {"image": image, "truth": labels.colours(truth)}
    for name, predicted in predictions.items():
        correct = _fraction(valid & (predicted == truth), valid)
        lines = wrapped(name, PANEL, NAME).replace(" ·\n", "\n")
        shown[f"{lines}\ncorrect: {correct}"] = labels.colours(predicted)
    rows = math.ceil(len(shown) / COLUMNS)
    columns = math.ceil(len(shown) / rows)
    above = max(name.count("\n") + 1 for name in shown) * NAME * LINE + 0.1
    figure = blank(columns * (PANEL + 0.1), rows * (PANEL * height / width + above))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, panel) in zip(panels, shown.items(), strict=False):
        _show(axes, panel, name)
        axes.set_anchor("N")  # below the title, because the layout reserves the title's room at the top of the cell
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    head(figure, title, HEADING)
    foot(figure, _present(labels, truth, *predictions.values()), size=NAME)
    return figure


def _show(axes: Axes, image: np.ndarray, name: str) -> AxesImage:
    axes.set_title(name, fontsize=NAME)
    axes.set_axis_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_visible(False)  # hidden ticks would still take a third of the drawing time
    return axes.imshow(image, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")


def _fraction(part: np.ndarray, valid: np.ndarray) -> str:
    return f"{part.sum() / valid.sum():.1%} of pixels" if valid.any() else "– (all void)"


def _present(labels: Classes, *masks: np.ndarray) -> list[Patch]:
    """Legend entries of the classes in any of the masks."""
    return [
        Patch(
            facecolor=to_hex(tuple(labels.colours(np.array(index)) / 255)), edgecolor="0.5",
            label="void" if index == VOID else labels.names[index],
        )
        for index in sorted(set().union(*(np.unique(mask) for mask in masks)))
    ]  # fmt: skip
