"""The best value of a study over the epochs that it used."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segmentation.plots.style import GREY, colours, figure_with_axes, foot, head
from studies.search.plots.colour_scale import best_value


def search_history(
    searches: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    ylabel: str,
    higher_is_better: bool,
    note: str | None = None,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Draw the best value so far of each study over the epochs used, and its trials as dots.

    The y axis covers the best values; a trial outside it is a triangle at the edge.

    Args:
        searches: by study name, the epochs used by all trials when each trial ended `(N,)`, and its value `(N,)`, NaN
            if it was pruned.
        title: title of the figure.
        ylabel: metric, with its unit.
        higher_is_better: direction of the metric.
        note: small print below the plot.
        reference: name and value of a dashed line.
    """
    figure, axes = figure_with_axes(6.8, 4.2)
    best, worst = _axis_ends([values for _, values in searches.values()], higher_is_better)
    so_far, beyond, sign = (np.fmax, np.less, "v") if higher_is_better else (np.fmin, np.greater, "^")
    handles: list[Artist] = []
    clipped = False
    for colour, (name, (epochs, values)) in zip(colours(len(searches)), searches.items(), strict=True):
        axes.plot(epochs, so_far.accumulate(values), drawstyle="steps-post", lw=2, color=colour, label=name)
        outside = beyond(values, worst)
        axes.plot(epochs[~outside], values[~outside], "o", ms=4, mew=0, alpha=0.55, color=colour)
        if outside.any():
            edge = np.full(outside.sum(), worst)
            axes.plot(epochs[outside], edge, sign, ms=5, mew=0, alpha=0.55, color=colour, clip_on=False)
            clipped = True
        handles.append(Line2D([], [], color=colour, lw=2, marker="o", ms=4, label=name))
    if reference is not None:
        handles.append(axes.axhline(reference[1], ls="--", lw=1, color=GREY, label=reference[0], zorder=1))
    if clipped:
        handles.append(Line2D([], [], ls="", marker=sign, ms=5, mew=0, color=GREY, label="trial outside the axis"))
        margin = 0.06 * (best - worst)
        axes.set_ylim(min(worst, best + margin), max(worst, best + margin))
    axes.set_xlim(left=0)
    axes.set(xlabel="epochs used by all trials", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles, note)
    return figure


def _axis_ends(searches: Sequence[np.ndarray], higher_is_better: bool) -> tuple[float, float]:
    """Best and worst value on an axis that shows the best of each study and the better half of the trials.

    The worst is infinite if an axis at most twice as long shows all trials.
    """
    finite = [each[np.isfinite(each)] for each in searches]
    best = best_value(np.concatenate([*finite, np.empty(0)]), higher_is_better)
    unlimited = -math.inf if higher_is_better else math.inf
    if math.isnan(best):
        return best, unlimited
    values = np.concatenate(searches)
    distance = np.abs(values[~np.isnan(values)] - best)
    last = max(abs(best_value(each, higher_is_better) - best) for each in finite if len(each))
    limit = max(1.2 * last, 1.5 * float(np.median(distance)))
    if distance.max() <= 2 * limit:
        return best, unlimited
    return best, best - limit if higher_is_better else best + limit
