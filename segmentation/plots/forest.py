"""Forest plot of paired differences with their intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segmentation.plots.style import BLUE, GREY, LABEL, LINE, figure_with_axes, foot, head, wrapped
from segmentation.scoring.bootstrap import Interval


def differences(
    rows: Sequence[tuple[str, float, Interval, bool]], title: str, xlabel: str, note: str | None = None
) -> Figure:
    """Forest plot: one row per difference with its 95 % interval, coloured if the difference is significant.

    Args:
        rows: name, such as `A − B`; difference; interval; whether it is significant.
        title: above the plot.
        xlabel: the metric, with its unit.
        note: small print below the plot, such as the scoring protocol.
    """
    names = [_wrapped_name(name) for name, *_ in rows]
    tallest = max((name.count("\n") + 1 for name in names), default=1)
    figure, axes = figure_with_axes(10.8, 0.8 + max(2, len(rows)) * (tallest * LABEL * LINE + 0.16))
    axes.axvline(0, color=GREY, ls="--", lw=1)
    for row, (_, value, interval, significant) in enumerate(rows):
        colour = BLUE if significant else GREY
        axes.hlines(row, interval.low, interval.high, color=colour, lw=2.2)
        axes.plot(value, row, "o", ms=7, color=colour, mfc=colour if significant else "white", mew=1.5)
        axes.text(
            1.02, row, f"{value:+.4f} {interval}" if np.isfinite(value) else "undefined",
            transform=axes.get_yaxis_transform(), va="center", fontsize=LABEL,
            color="black" if significant else GREY,
        )  # fmt: skip
    if not rows:
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks(range(len(rows)), names, fontsize=LABEL)
    axes.set(xlabel=xlabel, ylim=(max(len(rows), 1) - 0.4, -0.6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.25)
    keys = [
        Line2D([], [], marker="o", color=BLUE, lw=2.2, label="significant: adjusted p < 0.05"),
        Line2D([], [], marker="o", color=GREY, mfc="white", mew=1.5, lw=2.2, label="not significant"),
    ]
    head(figure, title)
    foot(figure, keys if rows else [], note)
    return figure


def _wrapped_name(name: str) -> str:
    """A name broken into lines; a difference that does not fit on one line is broken after the minus sign."""
    lines = wrapped(name, 4.1, LABEL)
    return wrapped(name.replace(" − ", " −\n"), 4.1, LABEL) if "\n" in lines else lines
