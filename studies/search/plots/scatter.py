"""Scatter plot of trials over two hyperparameters, with contours of a metric."""

import math

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.tri import Triangulation

from segmentation.plots.style import GREY, figure_with_axes, foot, head, wrapped
from studies.search.plots.colour_scale import colour_map, colour_scale, format_value

MAX_TICKS = 7
"""Largest number of ticks on a logarithmic axis; the labels of more would overlap."""


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    pruned: np.ndarray,
    xlabel: str,
    ylabel: str,
    title: str,
    label: str,
    higher_is_better: bool,
    best: int | None = None,
    best_name: str = "",
    note: str | None = None,
) -> Figure:
    """Draw complete trials as points coloured by a metric, and pruned trials as crosses.

    Pale contours, linear between neighbours, are drawn from four complete trials on. An axis is logarithmic if its
    positive values span more than a factor of ten; 0 is then drawn one decade below the smallest of them.

    Args:
        x: first hyperparameter of each trial, `(N,)`.
        y: second hyperparameter, `(N,)`.
        values: metric of each trial, `(N,)`; NaN is drawn grey.
        pruned: `(N,)` bool; the metric of pruned trials is not drawn.
        xlabel: name of the first hyperparameter.
        ylabel: name of the second.
        title: title of the figure.
        label: metric shown by the colours, with its unit.
        higher_is_better: direction of the metric, for the colours.
        best: index of the study's best trial, which gets a star whatever metric is shown.
        best_name: the best trial and the objective by which it is best, for the legend.
        note: small print below the plot.
    """
    figure, axes = figure_with_axes(6.8, 4.8)
    points = np.stack([_positions(axes.xaxis, x), _positions(axes.yaxis, y)], axis=1)
    complete = ~pruned & np.isfinite(values)
    without_value = ~pruned & ~complete
    handles: list[Artist] = []
    if complete.any():
        norm, extend = colour_scale(values[complete], higher_is_better)
        colours = colour_map(higher_is_better)
        _draw_contours(axes, points[complete], values[complete], norm, colours)
        dots = axes.scatter(
            points[complete, 0], points[complete, 1], c=values[complete], cmap=colours, norm=norm, s=42, lw=0.7,
            ec="black", zorder=3,
        )  # fmt: skip
        figure.colorbar(dots, ax=axes, extend=extend, label=wrapped(label, 4.0, 10), pad=0.02)
        handles = [
            Line2D([], [], ls="", marker="o", ms=6.5, mfc="0.85", mec="black", label=f"complete ({complete.sum()})")
        ]
        if best is not None and complete[best]:
            colour = colours(norm(values[best]))
            axes.plot(*points[best], "*", ms=17, mew=1.2, mfc=colour, mec="black", zorder=5)
            label = f"{best_name}: {format_value(float(values[best]))}"
            handles.append(Line2D([], [], ls="", marker="*", ms=14, mfc="0.85", mec="black", label=label))
    if pruned.any():
        handles += axes.plot(
            *points[pruned].T, "x", ms=5, mew=1.2, color="0.25", zorder=4, label=f"pruned ({pruned.sum()})"
        )
    if without_value.any():
        label = f"no value ({without_value.sum()})"
        handles += axes.plot(*points[without_value].T, "o", ms=6, color=GREY, zorder=2.5, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.use_sticky_edges = False  # contours would suppress the margins
    axes.margins(0.07)
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles, note)
    return figure


def _positions(axis: Axis, values: np.ndarray) -> np.ndarray:
    """Positions of values `(N,)` on an axis, logarithms if they are far apart; sets the ticks of the axis."""
    axis.set_major_formatter(lambda position, _: f"{position:g}")
    positive = values[values > 0]
    if (values < 0).any() or not len(positive) or positive.max() <= 10 * positive.min():
        return values
    low, high = positive.min(), positive.max()
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = decades
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = np.outer(decades, steps).ravel()
        ticks = ticks[(ticks > 0.999 * low) & (ticks < 1.001 * high)]
        if len(ticks) <= MAX_TICKS:
            break
    ticks = ticks[:: math.ceil(len(ticks) / MAX_TICKS)]
    positions, labels = np.log10(ticks), [f"{tick:g}" for tick in ticks]
    if (values == 0).any():
        positions, labels = np.append(positions, math.log10(low) - 1), [*labels, "0"]
    axis.set_ticks(positions, labels)
    return np.log10(np.where(values == 0, low / 10, values))


def _draw_contours(axes: Axes, points: np.ndarray, values: np.ndarray, norm: Normalize, colours: Colormap) -> None:
    """Fill contours between points `(n, 2)`, if there are four or more and they are not on one line."""
    known = np.isfinite(points).all(1)
    points, values = points[known], values[known]
    low, high = norm.vmin, norm.vmax
    if len(points) < 4 or low is None or high is None or low == high:
        return
    # Scaled to the axes, since the triangulation depends on distances.
    scaled = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    if np.linalg.matrix_rank(scaled - scaled.mean(0), tol=1e-6) < 2:
        return
    triangles = Triangulation(scaled[:, 0], scaled[:, 1]).triangles
    neighbours = Triangulation(points[:, 0], points[:, 1], triangles)
    levels = np.linspace(low, high, 9)
    axes.tricontourf(neighbours, values, levels, cmap=colours, norm=norm, extend="both", alpha=0.3, zorder=0)
