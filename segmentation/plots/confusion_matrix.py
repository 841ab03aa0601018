"""The confusion matrix."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from segmentation.classes import Classes
from segmentation.plots.style import LABEL, figure_with_axes, head


def confusion(counts: np.ndarray, labels: Classes, title: str) -> Figure:
    """Draw a confusion matrix `(C, C)`, each row as shares of the true class's pixels.

    Args:
        counts: row true class, column predicted class.
        labels: names of the classes.
        title: above the plot.
    """
    classes = len(labels)
    longest = max(len(name) for name in labels.names)
    side = max(4.5, 0.42 * classes + 1.2) + 0.07 * longest
    figure, axes = figure_with_axes(side + 1.4, side - 0.3)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        axes.text(
            column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
            color="white" if share > 0.55 else "black",
        )  # fmt: skip
    ticks = np.arange(classes)
    axes.set_xticks(ticks, labels.names, rotation=90 if classes > 6 or longest > 8 else 0, fontsize=LABEL)
    axes.set_yticks(ticks, labels.names, fontsize=LABEL)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, fraction=0.046, format=PercentFormatter(1), label="share of the true class")
    head(figure, title)
    return figure
