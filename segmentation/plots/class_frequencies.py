"""How often each class occurs in each split."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from segmentation.plots.style import clean, colours, figure_with_axes, foot, in_percent

ROW = 0.2
"""Height of a class in inches."""


def class_frequency(names: Sequence[str], fractions: Mapping[str, np.ndarray]) -> Figure:
    """A dot for each class and split, on a logarithmic axis; the most frequent class of the first split is on top.

    Args:
        names: of the classes.
        fractions: by split, the fraction of the non-void pixels that each class has, `(C,)`. 0 and NaN have no dot.
    """
    first = np.nan_to_num(next(iter(fractions.values())))
    order = np.argsort(first, kind="stable")
    figure, axes = figure_with_axes(6.4, 0.7 + ROW * len(names))
    handles = []
    rows = np.arange(len(names))
    markers = ("o", "D", "^", "s")
    for number, ((split, values), colour) in enumerate(zip(fractions.items(), colours(len(fractions)), strict=True)):
        ordered = np.asarray(values, np.float64)[order]
        shown = ordered > 0
        marker = markers[number % len(markers)]
        size = 7.5 - 2 * min(number, 2)
        axes.plot(ordered[shown], rows[shown], marker, color=colour, markersize=size, zorder=3)
        handles.append(Line2D([], [], marker=marker, color=colour, linestyle="", markersize=size, label=split))
    axes.set_xscale("log")
    in_percent(axes.xaxis)
    axes.xaxis.set_minor_formatter(NullFormatter())
    smallest = min(values[values > 0].min(initial=1.0) for values in map(np.nan_to_num, fractions.values()))
    axes.set_xlim(10 ** np.floor(np.log10(smallest)) / 1.3, 1.3)
    axes.set_xlabel("fraction of the non-void pixels")
    axes.set_yticks(rows, [names[index] for index in order])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(True, color="0.9", zorder=0)
    axes.tick_params(length=0)
    clean(axes)
    foot(figure, handles)
    return figure
