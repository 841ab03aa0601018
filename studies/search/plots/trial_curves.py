"""Learning curves of all trials of a study."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from segmentation.plots.learning_curves import FAR
from segmentation.plots.style import BLUE, GREY, ORANGE, RED, figure_with_axes, foot, head

STATES = {
    "complete": (BLUE, "o", 2.5),
    "pruned": (ORANGE, "x", 5),
    "failed": (RED, "D", 4),
    "running": (GREY, "o", 2.5),
}
"""Colour of a trial's curve, and the marker at its end with its size in points."""


def trial_curves(
    curves: Sequence[tuple[str, Sequence[float], str]],
    title: str,
    ylabel: str,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Draw the learning curve of each trial over epochs 1, 2, ..., coloured by the trial's state.

    Args:
        curves: name, values, and state: `complete`, `pruned`, `failed` or `running`.
        title: title of the figure.
        ylabel: metric, with its unit.
        reference: name and value of a dashed line.
    """
    figure, axes = figure_with_axes(7.2, 4.2)
    drawn = np.array([value for _, values, _ in curves for value in values if math.isfinite(value)])
    edge = math.inf
    if len(drawn) and drawn.min() > 0 and drawn.max() > FAR * np.median(drawn):
        axes.set_yscale("log")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        edge = FAR * float(np.median(drawn))
    for name, values, state in curves:
        colour, marker, size = STATES[state]
        shown = np.minimum(np.asarray(values, float), edge)
        axes.plot(
            np.arange(1, len(shown) + 1), shown, lw=1, alpha=0.5, color=colour, label=name,
            zorder=2 if state == "complete" else 2.5,
        )  # fmt: skip
        for last in np.flatnonzero(np.isfinite(shown))[-1:]:
            axes.plot(last + 1, shown[last], marker, ms=size, mew=1.2, color=colour, alpha=0.8, zorder=3)
    states = [state for *_, state in curves]
    handles: list[Line2D] = [
        Line2D([], [], color=colour, marker=marker, ms=size, mew=1.2, label=f"{state} ({states.count(state)})")
        for state, (colour, marker, size) in STATES.items()
        if state in states
    ]
    if reference is not None:
        handles.append(axes.axhline(reference[1], ls="--", lw=1, color=GREY, label=reference[0], zorder=1))
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    head(figure, title)
    note = f"Values above {edge:.3g} are drawn at {edge:.3g}." if (drawn > edge).any() else None
    foot(figure, handles, note)
    return figure
