"""Prediction for an image without labels, and the legend of predicted masks."""

from collections.abc import Callable

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segmentation.classes import VOID, Classes
from segmentation.plots.style import LABEL, blank, foot, head

PANEL = 3.4
"""Width of a panel in inches, and its largest height."""
NARROWEST = 1.5
"""Smallest width of a panel's cell in inches."""


def prediction(image: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, labels: Classes, title: str) -> Figure:
    """One image with its predicted classes and the confidence.

    Args:
        image: `(H, W, 3)` uint8.
        predicted: `(H, W)` class indices; void is shown and not in the legend.
        confidence: `(H, W)` in [0, 1].
        labels: names and colours; the legend lists the predicted classes.
        title: above the panels.
    """
    height, width = predicted.shape
    across = min(PANEL, PANEL * width / height)
    figure = blank(3 * max(NARROWEST, across) + 0.6, across * height / width + 0.4)
    shown = {"image": image, "prediction": labels.in_plots(predicted), "confidence": confidence}
    for axes, (name, panel) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        axes.set_title(name, fontsize=LABEL)
        axes.set_axis_off()
        drawn = axes.imshow(panel, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03)
    head(figure, title, 11)
    foot(figure, _patches(labels, np.unique(predicted[predicted != VOID]).tolist(), labels.in_plots))
    return figure


def legend(labels: Classes) -> Figure:
    """Legend with the colour, the mask value and the name of every class."""
    figure = blank(7, 0.1)
    head(figure, "Colour and mask value of each class", 11)
    foot(figure, _patches(labels, range(len(labels)), labels.colours, "{0}  {1}"))
    return figure


def _patches(
    labels: Classes, classes: "list[int] | range", colours: Callable[[np.ndarray], np.ndarray], text: str = "{1}"
) -> list[Patch]:
    return [
        Patch(
            facecolor=to_hex(tuple(colours(np.array(index)) / 255)), edgecolor="0.5",
            label=text.format(index, labels.names[index]),
        )
        for index in classes
    ]  # fmt: skip
