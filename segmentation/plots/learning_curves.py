"""Curves over epochs, of one run or of several runs."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segmentation.plots.style import BLUE, GREY, ORANGE, TITLE, colours, draw_band, figure_with_axes, foot, wrapped

TRAIN_AND_VAL = {"train": BLUE, "val": ORANGE}
FAR = 10
"""The scale is logarithmic if the largest value exceeds the median by this factor."""
STROKES = {"train": "--", "val": "-"}


def curves(
    title: str,
    ylabel: str,
    series: Mapping[str, Sequence[float]],
    best_epoch: int | None = None,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Figure:
    """One line per series over epochs 1, 2, ..., with the best epoch marked.

    Args:
        title: above the plot.
        ylabel: the metric, with its unit.
        series: values by name; `train` and `val` have fixed colours.
        best_epoch: position of a dotted line; None draws none.
        bands: by name of some or all series, low and high ends of the 95 % interval of each epoch's value.
    """
    figure, axes = figure_with_axes(6.4, 4.0)
    for other, (name, values) in zip(colours(len(series)), series.items(), strict=True):
        epochs, colour = np.arange(1, len(values) + 1), TRAIN_AND_VAL.get(name, other)
        label = f"{name}, 95 % interval shaded" if bands and name in bands else name
        axes.plot(epochs, values, "o-", ms=3, lw=1.6, color=colour, label=label)
        if bands and name in bands:
            low, high = bands[name]
            draw_band(axes, epochs, low, high, colour)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, ls=":", lw=1.2, zorder=1, label=f"best epoch ({best_epoch})")
    _over_epochs(axes, title, ylabel, 6.0, series.values())
    axes.legend(frameon=False)
    return figure


def curves_of_runs(title: str, ylabel: str, runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Curves of several runs over epochs 1, 2, ...: one colour per run, `train` dashed and `val` solid.

    Args:
        title: above the plot.
        ylabel: the metric, with its unit.
        runs: series by name, by run; runs may differ in length.
    """
    figure, axes = figure_with_axes(7.2, 4.2)
    handles = []
    for colour, (run, series) in zip(colours(len(runs)), runs.items(), strict=True):
        for name, values in series.items():
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, marker="o", ls=STROKES.get(name, ":"), ms=2.5, lw=1.5, color=colour)
        handles.append(Line2D([], [], color=colour, lw=3, label=run))
    for name in dict.fromkeys(name for series in runs.values() for name in series):
        handles.append(Line2D([], [], color=GREY, lw=1.5, ls=STROKES.get(name, ":"), label=name))
    _over_epochs(axes, title, ylabel, 6.8, [each for run in runs.values() for each in run.values()])
    foot(figure, handles)
    return figure


def _over_epochs(axes: Axes, title: str, ylabel: str, width: float, series: Iterable[Sequence[float]]) -> None:
    axes.set(title=wrapped(title, width, TITLE), xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    values = np.array([value for each in series for value in each if math.isfinite(value)])
    if len(values) and values.min() > 0 and values.max() > FAR * np.median(values):
        axes.set_yscale("log")  # on a linear scale one bad epoch would flatten all others
