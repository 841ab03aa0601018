"""Heat maps of a metric over a grid of two hyperparameters."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from segmentation.plots.style import GREY, LABEL, LETTER, RED, blank, foot, head, wrapped
from studies.search.plots.colour_scale import colour_map, colour_scale, format_value, text_colour

TICK_GAP = 0.15
"""Inches between two tick labels; longer labels are rotated."""


def heat_maps(
    panels: Mapping[str, np.ndarray],
    xs: Sequence[str],
    ys: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str,
    label: str,
    higher_is_better: bool | None,
    best: tuple[int, int] | None = None,
    best_name: str = "",
    note: str | None = None,
) -> Figure:
    """Draw one heat map per panel, side by side on one colour scale, with a star in the cell of the best trial.

    Args:
        panels: values `(len(ys), len(xs))` by panel name, NaN for a missing cell. The first row is drawn at the bottom.
            The name of a single panel may be empty.
        xs: tick labels of the first hyperparameter, from left to right.
        ys: tick labels of the second, from bottom to top.
        xlabel: name of the first hyperparameter.
        ylabel: name of the second.
        title: title of the figure.
        label: metric shown by the colours, with its unit.
        higher_is_better: direction of the metric, for the colours.
        best: row and column of the study's best trial in the first panel, whatever metric is shown.
        best_name: the best trial and the objective by which it is best, for the legend.
        note: small print below the panels.
    """
    longest = max((len(tick) for tick in xs), default=0)
    wide, high = max(2.4, 0.68 * len(xs)), max(1.7, 0.42 * len(ys))
    rotate = longest * LETTER * LABEL > wide / max(1, len(xs)) - TICK_GAP
    margin = 0.9 + max((len(tick) for tick in ys), default=0) * LETTER * LABEL
    figure = blank(len(panels) * (wide + 0.15) + margin + 1.0, high + 0.8 + rotate * longest * LETTER * LABEL)
    row = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    values = np.concatenate([panel.ravel() for panel in panels.values()] or [np.empty(0)])
    norm, extend = colour_scale(values, higher_is_better)
    colours = colour_map(higher_is_better)
    for number, (axes, (name, panel)) in enumerate(zip(row, panels.items(), strict=False)):
        axes.imshow(panel, cmap=colours, norm=norm, aspect="auto", origin="lower", interpolation="nearest")
        for (y, x), value in np.ndenumerate(panel):
            measured, is_best = bool(np.isfinite(value)), number == 0 and (y, x) == best
            axes.text(
                x, y, format_value(value) if measured else "–", ha="center", va="center", fontsize=8,
                color=text_colour(colours(norm(value))) if measured else GREY,
                weight="bold" if is_best else "normal",
            )  # fmt: skip
            if is_best:
                axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=RED, lw=2.5))
                axes.plot(x - 0.34, y + 0.26, "*", ms=10, mew=0.8, mec="white", color=RED)
        axes.set_title(wrapped(name, wide, LABEL + 1), fontsize=LABEL + 1)
        axes.set_xticks(range(len(xs)), xs, fontsize=LABEL, rotation=90 if rotate else 0)
        axes.set_yticks(range(len(ys)), ys, fontsize=LABEL)
        axes.set_xlabel(wrapped(xlabel, wide, 10))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(wrapped(ylabel, high, 10))
    if np.isfinite(values).any():
        bar = ScalarMappable(norm, colours)
        figure.colorbar(bar, ax=list(row), extend=extend, label=wrapped(label, high, 10), aspect=14, pad=0.02)
    head(figure, title)
    star = [Line2D([], [], ls="", marker="*", ms=8, mew=0, color=RED, label=best_name)] if best else []
    foot(figure, star, note)
    return figure
