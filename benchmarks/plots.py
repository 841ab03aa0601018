"""Plots of measurements: speed relative to other implementations, growth of cost, and cost of searches."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.results import GROWTH, Record
from benchmarks.tables import in_unit
from segmentation.plots.style import (
    BLUE,
    GREY,
    LABEL,
    LETTER,
    LINE,
    NOTE,
    ORANGE,
    SERIES,
    blank,
    clean,
    figure_with_axes,
    foot,
    head,
    in_percent,
    wrapped,
)

WIDTH = 7.5
"""Width in inches: 900 pixels, which GitHub shows without scaling."""
NAMES = 2.2
"""Width of the names of cases, in inches."""
HEAD, ROW, GAP = 0.36, 0.21, 0.12
"""Heights of a stage's title, of a contestant, and of the gap between cases, in inches."""
BELOW = 0.75
"""Height of the axis and the legend, in inches."""
PANELS, PANEL = 3, 2.1
"""Number of panels in a row, and their height in inches."""
OUTLINE = (withStroke(linewidth=2.5, foreground="white"),)
STROKES = ("-", "--", "-.", ":")
TICKS = (*(10.0**-power for power in range(9, 0, -1)), 0.5, 1, 2, *(10.0**power for power in range(1, 10)))


def speed(records: Mapping[str, Record]) -> Figure:
    """Speed of limits and peers in every case, relative to this project; faster is to the right."""
    texts: list[tuple[float, str, bool]] = []
    rows: list[tuple[float, Record, Record]] = []
    depth = 0.0
    for record in (record for name, record in records.items() if name != GROWTH):
        texts.append((depth + 0.1, record["title"], True))
        depth += HEAD
        for case in record["cases"]:
            others = [each for each in case["contestants"] if each["role"] != "ours"]
            name = wrapped(case["name"].replace("`", ""), NAMES - 0.3, LABEL)
            texts.append((depth + 0.03, name, False))
            rows += [(depth + (index + 0.5) * ROW, case, each) for index, each in enumerate(others)]
            depth += max(len(others) * ROW, (name.count("\n") + 1) * LABEL * LINE) + GAP
    figure = blank(WIDTH, depth + BELOW)
    figure.set_layout_engine("none")
    bottom = BELOW / (depth + BELOW)
    axes = figure.add_axes((NAMES / WIDTH, bottom, 1 - (NAMES + 0.1) / WIDTH, 1 - bottom))
    ends = [1 / case["ratios"][each["name"]][end] for _, case, each in rows for end in ("low", "high")]
    axes.set(xscale="log", xlim=(min([0.6, *ends]) / 1.3, max([1.3, *ends]) * 2.2), ylim=(depth, 0))
    axes.axvline(1, color=BLUE, lw=1.6, zorder=1)
    for y, text, is_title in texts:
        axes.text(
            -(NAMES - (0.1 if is_title else 0.22)) / (WIDTH - NAMES - 0.1), y, text, va="top",
            transform=axes.get_yaxis_transform(), fontsize=LABEL, weight="bold" if is_title else "normal",
            path_effects=OUTLINE,
        )  # fmt: skip
    for row in rows:
        _mark(axes, *row)
    _fractions(axes.xaxis)
    axes.set_yticks([])
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel("speed, this project = 1", fontsize=LABEL)
    keys = [
        Line2D([], [], color=GREY, marker="o", ms=5.5, lw=2.2, label="limit: only the necessary work"),
        Line2D([], [], color=ORANGE, marker="o", ms=5.5, lw=2.2, label="other implementation"),
        Line2D([], [], color="black", marker="|", ms=9, mew=1.6, lw=0, label="goal: dot at or left of the mark"),
    ]
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, fontsize=LABEL)
    return figure


def growth(record: Record) -> Figure:
    """One panel per series: time over size, both logarithmic, with a dotted line of slope 1."""
    series = record["series"]
    lines = -(-len(series) // PANELS)
    figure = blank(WIDTH, PANEL * lines)
    grid = list(figure.subplots(lines, PANELS, squeeze=False).flat)
    for axes, each in zip(grid, series, strict=False):
        _panel(axes, each)
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    keys = [
        Line2D([], [], color=BLUE, marker="o", ms=4, lw=1.6, label="median time"),
        Line2D([], [], color=GREY, ls=":", lw=1.4, label="slope 1: linear"),
    ]
    foot(figure, keys)
    return figure


def fraction_reached(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    marks: Sequence[float],
    title: str,
    xlabel: str,
    ylabel: str,
    note: str | None = None,
) -> Figure:
    """Draw the fraction of searches that reached their goal, as steps over the cost, one line per method.

    Args:
        curves: by method, cost and fraction `(n,)`; the fraction, in [0, 1], holds from this cost on.
        marks: costs at which to draw dotted lines.
        title: title of the figure.
        xlabel: cost, with its unit.
        ylabel: meaning of the fraction.
        note: small print below the plot.
    """
    figure, axes = figure_with_axes(6.8, 4.2)
    handles: list[Artist] = []
    for index, (name, (x, fraction)) in enumerate(curves.items()):
        turn, colour = divmod(index, len(SERIES))
        stroke = STROKES[(colour + turn) % len(STROKES)]
        handles += axes.plot(
            x, fraction, ls=stroke, lw=1.8, color=SERIES[colour], alpha=0.9, drawstyle="steps-post", label=name,
            marker="o", ms=4, markevery=slice(-1, None),
        )  # fmt: skip
    for mark in marks:
        axes.axvline(mark, color=GREY, ls=":", lw=1.2, zorder=1)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02), yticks=np.linspace(0, 1, 6))
    in_percent(axes.yaxis)
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles, note)
    return figure


def _mark(axes: Axes, y: float, case: Record, contestant: Record) -> None:
    """Draw the speed of a contestant with its range, the goal, and its name on the side with space."""
    ratio = case["ratios"][contestant["name"]]
    value, low, high = (1 / ratio[end] for end in ("median", "high", "low"))
    colour = GREY if contestant["role"] == "limit" else ORANGE
    axes.hlines(y, low, high, color=colour, lw=2.2)
    axes.plot(value, y, "o", ms=5.5, color=colour, zorder=3)
    goals = [1 / goal["at_least"] for goal in case["goals"] if goal["other"] == contestant["name"]]
    axes.plot(goals, [y] * len(goals), "|", ms=9, mew=1.6, color="black", zorder=4)
    begin, end = min([low, *goals]), max([high, *goals])
    left, right = map(math.log, axes.get_xlim())
    inches = (WIDTH - NAMES - 0.1) / (right - left)
    name = contestant["name"].replace("`", "")
    needed = len(name) * LETTER * LABEL + 0.2
    at_right = (right - math.log(end)) * inches > needed and (value > 1 or (math.log(begin) - left) * inches < needed)
    axes.annotate(
        name, (end if at_right else begin, y), (7 if at_right else -7, 0), textcoords="offset points",
        va="center", ha="left" if at_right else "right", fontsize=LABEL, path_effects=OUTLINE, zorder=5,
    )  # fmt: skip


def _panel(axes: Axes, series: Record) -> None:
    clean(axes)
    sizes = [point["x"] for point in series["points"]]
    seconds = [statistics.median(point["seconds"]) for point in series["points"]]
    axes.plot(sizes, [seconds[0] * size / sizes[0] for size in sizes], ":", color=GREY, lw=1.4)
    axes.plot(sizes, seconds, "o-", color=BLUE, ms=4, lw=1.6)
    axes.set(xscale="log", yscale="log")
    axes.set_title(wrapped(series["name"], WIDTH / PANELS - 0.5, LABEL), fontsize=LABEL, loc="left")
    axes.set_xlabel(wrapped(series["against"], WIDTH / PANELS - 0.5, NOTE), fontsize=NOTE)
    axes.text(
        0.04, 0.97, f"exponent {series['exponent']:.2f}", transform=axes.transAxes, va="top", fontsize=NOTE,
        path_effects=OUTLINE,
    )  # fmt: skip
    axes.xaxis.set(major_locator=FixedLocator(sizes), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set(major_locator=LogLocator(subs=(1.0, 2.0, 5.0), numticks=6), minor_locator=NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: "{:g} {}".format(*in_unit(seconds))))
    axes.tick_params(labelsize=NOTE)
    axes.grid(alpha=0.25)


def _fractions(axis: Axis) -> None:
    axis.set(major_locator=FixedLocator(TICKS), minor_locator=NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axis.set_tick_params(labelsize=LABEL)
