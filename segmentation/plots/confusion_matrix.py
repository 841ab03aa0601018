"""Confusion matrix, normalised by true class."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from segmentation.classes import Classes
from segmentation.plots.style import LABEL, LETTER, figure_with_axes, foot, head


def confusion(counts: np.ndarray, labels: Classes, title: str) -> Figure:
    """Confusion matrix; each row in percent of the true class's pixels.

    Classes that are neither labelled nor predicted have no row, and a note names them.

    Args:
        counts: `(C, C)`, row true class, column predicted class.
        labels: names of the classes.
        title: above the plot.
    """
    used = np.flatnonzero(counts.sum(0) + counts.sum(1)) if counts.any() else np.arange(len(labels))
    counts, names = counts[np.ix_(used, used)], [labels.names[index] for index in used]
    absent = [name for name in labels.names if name not in names]
    classes = len(names)
    longest = max(len(name) for name in names)
    side = max(4.5, 0.42 * classes + 1.2) + 0.07 * longest
    upright = longest * LETTER * LABEL > 0.8 * (side - 1.2) / classes
    figure, axes = figure_with_axes(side + (1.4 if upright else 2), side - 0.3)
    totals = counts.sum(1, keepdims=True)
    fractions = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(fractions >= 0.005):
        fraction = fractions[row, column]
        axes.text(
            column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=8,
            color="white" if fraction > 0.55 else "black",
        )  # fmt: skip
    ticks = np.arange(classes)
    axes.set_xticks(ticks, names, rotation=90 if upright else 0, fontsize=LABEL)
    axes.set_yticks(ticks, names, fontsize=LABEL)
    axes.set(xlabel="predicted class", ylabel="true class")
    label = "percent of the true class's pixels"
    figure.colorbar(image, ax=axes, fraction=0.046, format=PercentFormatter(1), label=label)
    head(figure, title)
    if absent:
        foot(figure, note=f"neither labelled nor predicted: {', '.join(absent)}")
    return figure
