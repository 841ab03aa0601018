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
GAP, MARGIN, ABOVE = 0.12, 0.1, 0.3
"""Room between the panels of an example, around them, and above them for their names, in inches."""
BAR = 0.45
"""Room for the colour bar of the confidence, in inches."""
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
    valid = truth != VOID
    wrong = valid & (predicted != truth)
    errors = (0.35 * image + 0.65 * 255).astype(np.uint8)
    errors[wrong] = (197, 48, 48)
    errors[~valid] = (224, 224, 224)
    shown = {
        "image": image, "truth": labels.in_plots(truth), "prediction": labels.in_plots(predicted),
        "confidence": confidence, f"wrong: {_fraction(wrong, valid)}": errors,
    }  # fmt: skip
    # all panels in one `Axes`, in inches: five of them and a layout would take three times as long to draw
    tall = PANEL * height / width
    across, down = 5 * PANEL + 4 * GAP + BAR + 2 * MARGIN, tall + ABOVE + MARGIN
    figure = blank(across, down)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left = MARGIN
    for name, panel in shown.items():
        axes.text(left + PANEL / 2, ABOVE - 0.07, name, ha="center", va="bottom", fontsize=NAME)
        _place(axes, panel, left, PANEL, tall)
        left += PANEL + GAP
        if name == "confidence":
            bar = left - GAP + 0.08
            _place(axes, np.linspace(1, 0, 256)[:, None], bar, 0.1, tall)
            for value in (0, 0.5, 1):
                axes.text(bar + 0.14, ABOVE + tall * (1 - value), f"{value:g}", va="center", fontsize=NAME - 2)
            left += BAR
    axes.set(xlim=(0, across), ylim=(down, 0))
    head(figure, title, HEADING)
    above = figure.get_figheight() - down
    foot(figure, _present(labels, truth, predicted), size=NAME)
    total = figure.get_figheight()
    figure.set_layout_engine("none")
    axes.set_position((0, 1 - (above + down) / total, 1, down / total))
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
    shown = {"image": image, "truth": labels.in_plots(truth)}
    for name, predicted in predictions.items():
        correct = _fraction(valid & (predicted == truth), valid)
        lines = wrapped(name, PANEL, NAME).replace(" ·\n", "\n")
        shown[f"{lines}\ncorrect: {correct}"] = labels.in_plots(predicted)
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


def _place(axes: Axes, image: np.ndarray, left: float, width: float, height: float) -> None:
    """Draw an image below `ABOVE`; sizes in inches."""
    extent = (left, left + width, ABOVE + height, ABOVE)
    axes.imshow(image, "viridis", aspect="auto", interpolation="nearest", vmin=0, vmax=1, extent=extent)


def _fraction(part: np.ndarray, valid: np.ndarray) -> str:
    return f"{part.sum() / valid.sum():.1%} of pixels" if valid.any() else "– (all void)"


def _present(labels: Classes, *masks: np.ndarray) -> list[Patch]:
    """Legend entries of the classes in any of the masks."""
    return [
        Patch(
            facecolor=to_hex(tuple(labels.in_plots(np.array(index)) / 255)), edgecolor="0.5",
            label="void" if index == VOID else labels.names[index],
        )
        for index in sorted(set().union(*(np.unique(mask) for mask in masks)))
    ]  # fmt: skip
