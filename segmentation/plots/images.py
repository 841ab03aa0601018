"""Segmented images: one prediction in detail, or those of several networks side by side."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from segmentation.classes import VOID, Classes
from segmentation.plots.style import LABEL, LINE, blank, foot, head, wrapped

PANEL = 2.5
"""Width of a picture in inches."""
COLUMNS = 5
"""At most so many pictures beside each other."""


def example(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, labels: Classes, title: str
) -> Figure:
    """Show one image, its true and predicted classes, the confidence, and where the prediction was wrong.

    Args:
        image: `(H, W, 3)` uint8.
        truth: `(H, W)` class indices, 255 is void.
        predicted: `(H, W)` class indices.
        confidence: `(H, W)` in [0, 1].
        labels: names and colours; the legend lists the classes that are present.
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
    _show(panels[4], errors, f"wrong: {_share(wrong, valid)}")
    figure.colorbar(drawn, ax=panels[3], fraction=0.046, pad=0.03)
    head(figure, title, 11)
    foot(figure, _present(labels, truth, predicted))
    return figure


def side_by_side(
    image: np.ndarray, truth: np.ndarray, predictions: Mapping[str, np.ndarray], labels: Classes, title: str
) -> Figure:
    """Show one image, its true classes, and what each network predicted, with the share of pixels it got right.

    Args:
        image: `(H, W, 3)` uint8.
        truth: `(H, W)` class indices, 255 is void.
        predictions: `(H, W)` class indices by the network's name.
        labels: names and colours; the legend lists the classes that are present.
        title: above the panels.
    """
    height, width = truth.shape
    valid = truth != VOID
    pictures = {"image": image, "truth": labels.colours(truth)}
    for name, predicted in predictions.items():
        right = _share(valid & (predicted == truth), valid)
        pictures[f"{wrapped(name, PANEL, LABEL)}\nright: {right}"] = labels.colours(predicted)
    rows = math.ceil(len(pictures) / COLUMNS)
    columns = math.ceil(len(pictures) / rows)
    above = max(name.count("\n") + 1 for name in pictures) * LABEL * LINE + 0.1
    figure = blank(columns * (PANEL + 0.1), rows * (PANEL * height / width + above))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, picture) in zip(panels, pictures.items(), strict=False):
        _show(axes, picture, name)
        axes.set_anchor("N")  # the layout makes room for a title above where a picture could end, not where it ends
    for axes in panels[len(pictures) :]:
        axes.set_axis_off()
    head(figure, title, 11)
    foot(figure, _present(labels, truth, *predictions.values()))
    return figure


def _show(axes: Axes, picture: np.ndarray, name: str) -> AxesImage:
    axes.set_title(name, fontsize=LABEL)
    axes.set_axis_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_visible(False)  # otherwise ticks that nobody sees are made, which takes a third of the drawing
    return axes.imshow(picture, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")


def _share(part: np.ndarray, valid: np.ndarray) -> str:
    return f"{part.sum() / valid.sum():.1%} of pixels" if valid.any() else "– (all void)"


def _present(labels: Classes, *masks: np.ndarray) -> list[Patch]:
    """One entry of a legend for each class that some mask contains."""
    return [
        Patch(
            facecolor=to_hex(tuple(labels.colours(np.array(index)) / 255)), edgecolor="0.5",
            label="void" if index == VOID else labels.names[index],
        )
        for index in sorted(set().union(*(np.unique(mask) for mask in masks)))
    ]  # fmt: skip
