"""What a search over hyperparameters found. A trial is one training of the search."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from matplotlib.tri import Triangulation

from segmentation.plots.curves import FAR
from segmentation.plots.style import (
    BLUE,
    GREY,
    LABEL,
    LETTER,
    LINE,
    ORANGE,
    RED,
    SERIES,
    blank,
    colours,
    figure_with_axes,
    foot,
    head,
    in_percent,
    wrapped,
)

CLIPPED = 3
"""Values are told apart by colour as far from the best as so many times the median distance."""
MOST_TICKS = 8
STATES = {
    "complete": (BLUE, "o", 2.5),
    "pruned": (ORANGE, "x", 5),
    "failed": (RED, "x", 5),
    "running": (GREY, "o", 2.5),
}
"""Colour of a trial's curve, and marker at its end with its size in points."""
STROKES = ("-", "--", "-.", ":")


def heat_maps(
    panels: Mapping[str, np.ndarray],
    xs: Sequence[str],
    ys: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str,
    label: str,
    higher_is_better: bool | None,
    note: str | None = None,
) -> Figure:
    """Draw values over a grid of two hyperparameters, side by side in the same colours, the best cell outlined.

    Args:
        panels: by name, values `(len(ys), len(xs))` with NaN where there is none; the first row is drawn at the
            bottom. The name of a lone panel may be empty.
        xs: values of the hyperparameter from left to right, as they shall be written.
        ys: those of the other from the bottom up.
        xlabel: the first hyperparameter.
        ylabel: the second.
        title: above the panels.
        label: what the colours show, with its unit.
        higher_is_better: of the values; None outlines no cell.
        note: small print beneath, such as how it was measured.
    """
    longest = max((len(tick) for tick in xs), default=0)
    upright = longest * LETTER * LABEL > 0.6
    wide, high = max(2.4, 0.68 * len(xs)), max(1.7, 0.42 * len(ys))
    margin = 0.9 + max((len(tick) for tick in ys), default=0) * LETTER * LABEL
    figure = blank(len(panels) * (wide + 0.15) + margin + 1.0, high + 0.8 + upright * longest * LETTER * LABEL)
    row = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    values = np.concatenate([panel.ravel() for panel in panels.values()] or [np.empty(0)])
    norm, extend = _scale(values, higher_is_better)
    shades = _shades(higher_is_better)
    for axes, (name, panel) in zip(row, panels.items(), strict=False):
        axes.imshow(panel, cmap=shades, norm=norm, aspect="auto", origin="lower", interpolation="nearest")
        best = _best(panel[np.isfinite(panel)], higher_is_better)
        for (y, x), value in np.ndenumerate(panel):
            there = bool(np.isfinite(value))
            axes.text(
                x, y, _written(value) if there else "–", ha="center", va="center", fontsize=8,
                color=_ink(shades(norm(value))) if there else GREY, weight="bold" if value == best else "normal",
            )  # fmt: skip
            if value == best:
                axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=RED, lw=2.5))
        axes.set_title(wrapped(name, wide, LABEL + 1), fontsize=LABEL + 1)
        axes.set_xticks(range(len(xs)), xs, fontsize=LABEL, rotation=90 if upright else 0)
        axes.set_yticks(range(len(ys)), ys, fontsize=LABEL)
        axes.set_xlabel(wrapped(xlabel, wide, 10))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(wrapped(ylabel, high, 10))
    if np.isfinite(values).any():
        bar = ScalarMappable(norm, shades)
        figure.colorbar(bar, ax=list(row), extend=extend, label=wrapped(label, high, 10), aspect=14, pad=0.02)
    head(figure, title)
    foot(figure, note=note)
    return figure


def plane(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    pruned: np.ndarray,
    xlabel: str,
    ylabel: str,
    title: str,
    label: str,
    higher_is_better: bool,
    note: str | None = None,
) -> Figure:
    """Draw trials over two hyperparameters: complete ones in the colour of their value, pruned ones as crosses.

    Beneath four complete ones or more lie pale contours, linear between neighbours. An axis is logarithmic if its
    positive values span more than a factor of ten; 0 then stands one decade before the smallest of them.

    Args:
        x: hyperparameter `(N,)`.
        y: another `(N,)`.
        values: of the trials `(N,)`; NaN is drawn grey.
        pruned: `(N,)` bool; the values of these are not drawn.
        xlabel: the first hyperparameter.
        ylabel: the second.
        title: above the plot.
        label: what the colours show, with its unit.
        higher_is_better: of the values.
        note: small print beneath, such as how it was measured.
    """
    figure, axes = figure_with_axes(6.8, 4.8)
    places = np.stack([_along(axes.xaxis, x), _along(axes.yaxis, y)], axis=1)
    complete = ~pruned & np.isfinite(values)
    bare = ~pruned & ~complete
    handles: list[Artist] = []
    if complete.any():
        norm, extend = _scale(values[complete], higher_is_better)
        shades = _shades(higher_is_better)
        _contours(axes, places[complete], values[complete], norm, shades)
        points = axes.scatter(
            places[complete, 0], places[complete, 1], c=values[complete], cmap=shades, norm=norm, s=42, lw=0.7,
            ec="black", zorder=3,
        )  # fmt: skip
        figure.colorbar(points, ax=axes, extend=extend, label=wrapped(label, 4.0, 10), pad=0.02)
        best = _best(values[complete], higher_is_better)
        first = np.flatnonzero(complete & (values == best))[0]
        axes.plot(*places[first], "*", ms=17, mew=1.2, mfc=shades(norm(best)), mec="black", zorder=5)
        handles = [
            Line2D([], [], ls="", marker="o", ms=6.5, mfc="0.85", mec="black", label=f"complete ({complete.sum()})"),
            Line2D([], [], ls="", marker="*", ms=14, mfc="0.85", mec="black", label=f"best: {_written(best)}"),
        ]
    if pruned.any():
        handles += axes.plot(
            *places[pruned].T, "x", ms=5, mew=1.2, color="0.25", zorder=4, label=f"pruned ({pruned.sum()})"
        )
    if bare.any():
        handles += axes.plot(*places[bare].T, "o", ms=6, color=GREY, zorder=2.5, label=f"no value ({bare.sum()})")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.use_sticky_edges = False  # those of the contours
    axes.margins(0.07)
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles, note)
    return figure


def search_history(
    searches: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    ylabel: str,
    higher_is_better: bool,
    note: str | None = None,
) -> Figure:
    """Draw the best value so far of each search against the training it had cost, and its trials as dots.

    The scale shows where the best values lie; a trial beyond it is a triangle at the edge.

    Args:
        searches: by name, epochs spent by all trials until this one ended `(N,)`, and its value `(N,)`, NaN if pruned.
        title: above the plot.
        ylabel: what is drawn, with its unit.
        higher_is_better: of the values.
        note: small print beneath, such as how it was measured.
    """
    figure, axes = figure_with_axes(6.8, 4.2)
    best, worst = _best_and_worst_shown([values for _, values in searches.values()], higher_is_better)
    so_far, beyond, sign = (np.fmax, np.less, "v") if higher_is_better else (np.fmin, np.greater, "^")
    handles, clipped = [], False
    for colour, (name, (epochs, values)) in zip(colours(len(searches)), searches.items(), strict=True):
        axes.plot(epochs, so_far.accumulate(values), drawstyle="steps-post", lw=2, color=colour, label=name)
        out = beyond(values, worst)
        axes.plot(epochs[~out], values[~out], "o", ms=4, mew=0, alpha=0.55, color=colour)
        if out.any():
            edge = np.full(out.sum(), worst)
            axes.plot(epochs[out], edge, sign, ms=5, mew=0, alpha=0.55, color=colour, clip_on=False)
            clipped = True
        handles.append(Line2D([], [], color=colour, lw=2, marker="o", ms=4, label=name))
    if clipped:
        handles.append(Line2D([], [], ls="", marker=sign, ms=5, mew=0, color=GREY, label="trial beyond the scale"))
        margin = 0.06 * (best - worst)
        axes.set_ylim(min(worst, best + margin), max(worst, best + margin))
    axes.set_xlim(left=0)
    axes.set(xlabel="training epochs spent by all trials", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles, note)
    return figure


def importances(shares: Mapping[str, float], title: str) -> Figure:
    """Draw how much each hyperparameter matters, the most important on top.

    Args:
        shares: by hyperparameter, its share of the importance, in [0, 1].
        title: above the plot.
    """
    ranked = sorted(shares.items(), key=lambda item: item[1])
    names = [wrapped(name, 2.2, LABEL) for name, _ in ranked]
    tallest = max((name.count("\n") + 1 for name in names), default=1)
    figure, axes = figure_with_axes(6.4, 0.7 + max(2, len(names)) * (tallest * LABEL * LINE + 0.16))
    for place, (_, share) in enumerate(ranked):
        axes.barh(place, share, 0.7, color=BLUE)
        axes.annotate(
            f"{share:.0%}" if share >= 0.01 or share == 0 else "<1%", (share, place), (4, 0),
            textcoords="offset points", va="center", fontsize=LABEL,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=LABEL)
    axes.set(xlabel="share of the importance", xlim=(0, 1.12 * max(shares.values(), default=0) or 1))
    axes.tick_params(axis="y", length=0)
    in_percent(axes.xaxis)
    head(figure, title)
    return figure


def trial_curves(curves: Sequence[tuple[str, Sequence[float], str]], title: str, ylabel: str) -> Figure:
    """Draw each trial's values over epochs 1, 2, ..., in the colour of how it ended.

    Args:
        curves: name, values, and state: `complete`, `pruned`, `failed` or `running`.
        title: above the plot.
        ylabel: what is drawn, with its unit.
    """
    figure, axes = figure_with_axes(7.2, 4.2)
    drawn = np.array([value for _, values, _ in curves for value in values if math.isfinite(value)])
    edge = math.inf
    if len(drawn) and drawn.min() > 0 and drawn.max() > FAR * np.median(drawn):
        axes.set_yscale("log")
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
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=size, mew=1.2, label=f"{state} ({states.count(state)})")
        for state, (colour, marker, size) in STATES.items()
        if state in states
    ]
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    head(figure, title)
    note = f"Values above {edge:.3g} are drawn at {edge:.3g}." if (drawn > edge).any() else None
    foot(figure, handles, note)
    return figure


def pareto(
    x: np.ndarray,
    y: np.ndarray,
    front: np.ndarray,
    names: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str,
    higher: tuple[bool, bool],
) -> Figure:
    """Draw points of two aims, and join those that nothing beats, with their names, by a staircase.

    Args:
        x: values of the first aim `(N,)`.
        y: values of the second `(N,)`.
        front: `(N,)` bool, whether no other point is as good in both and better in one.
        names: of the points; those of the front are written.
        xlabel: the first aim, with its unit.
        ylabel: the second.
        title: above the plot.
        higher: whether higher is better, of either.
    """
    figure, axes = figure_with_axes(7.2, 5.0)
    order = np.flatnonzero(front)[np.lexsort((y[front], x[front]))]
    handles: list[Artist] = []
    if len(order):
        # As far as the next point in the direction that is worse, nothing better is known.
        stairs = "steps-pre" if higher[0] else "steps-post"
        label = f"nothing beats it ({len(order)})"
        handles += axes.plot(x[order], y[order], "o-", ms=7, lw=1.6, color=BLUE, drawstyle=stairs, label=label)
    if not front.all():
        label = f"beaten ({(~front).sum()})"
        handles += axes.plot(x[~front], y[~front], "o", ms=5, mew=0, alpha=0.6, color=GREY, zorder=1.9, label=label)
    axes.set_xlabel(wrapped(f"{xlabel} {_aim(higher[0])}", 6.0, 10))
    axes.set_ylabel(wrapped(f"{ylabel} {_aim(higher[1])}", 4.0, 10))
    axes.margins(0.06, 0.15)
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles)
    _name_points(figure, axes, np.stack([x, y], axis=1), order, [names[place] for place in order], higher)
    return figure


def fraction_reached(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    marks: Sequence[float],
    title: str,
    xlabel: str,
    ylabel: str,
    note: str | None = None,
) -> Figure:
    """Draw the share that each method has reached, such as of searches at their goal, as steps.

    Args:
        curves: by method, x and share `(n,)`, in [0, 1], from that x on.
        marks: where to draw dotted lines.
        title: above the plot.
        xlabel: what it costs, with its unit.
        ylabel: what is reached.
        note: small print beneath, such as how it was measured.
    """
    figure, axes = figure_with_axes(6.8, 4.2)
    handles: list[Artist] = []
    for place, (name, (x, share)) in enumerate(curves.items()):
        turn, colour = divmod(place, len(SERIES))
        stroke = STROKES[(colour + turn) % len(STROKES)]
        handles += axes.plot(
            x, share, ls=stroke, lw=1.8, color=SERIES[colour], alpha=0.9, drawstyle="steps-post", label=name,
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


def _best(values: np.ndarray, higher_is_better: bool | None) -> float:
    if higher_is_better is None or not len(values):
        return math.nan
    return float(values.max() if higher_is_better else values.min())


def _written(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2g}"


def _shades(higher_is_better: bool | None) -> Colormap:
    """The better, the brighter."""
    return matplotlib.colormaps["viridis_r" if higher_is_better is False else "viridis"].with_extremes(bad="0.92")


def _ink(shade: Sequence[float]) -> str:
    """Black or white, whichever has more contrast with a colour."""
    luminance = np.asarray(shade[:3]) ** 2.2 @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.18 else "white"


def _scale(
    values: np.ndarray, higher_is_better: bool | None
) -> tuple[Normalize, Literal["neither", "min", "max", "both"]]:
    """A scale of colours that values far beyond the rest do not stretch, and at which ends it leaves some out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Normalize(0, 1), "neither"
    start, times = _best(values, higher_is_better), CLIPPED
    if higher_is_better is None:
        start, times = float(np.median(values)), FAR
    away = np.abs(values - start)
    reach = times * float(np.median(away[away > 0])) if away.any() else 0.0
    low, high = max(float(values.min()), start - reach), min(float(values.max()), start + reach)
    below, above = bool(values.min() < low), bool(values.max() > high)
    extend: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]]
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    return Normalize(low, high), extend[below, above]


def _along(axis: Axis, values: np.ndarray) -> np.ndarray:
    """Where values `(N,)` lie along an axis, which gets its ticks; their logarithms if they are far apart."""
    axis.set_major_formatter(lambda place, _: f"{place:g}")
    positive = values[values > 0]
    if (values < 0).any() or not len(positive) or positive.max() <= 10 * positive.min():
        return values
    low, high = positive.min(), positive.max()
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = decades
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = np.outer(decades, steps).ravel()
        ticks = ticks[(ticks > 0.999 * low) & (ticks < 1.001 * high)]
        if len(ticks) <= MOST_TICKS:
            break
    ticks = ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    places, names = np.log10(ticks), [f"{tick:g}" for tick in ticks]
    if (values == 0).any():
        places, names = np.append(places, math.log10(low) - 1), [*names, "0"]
    axis.set_ticks(places, names)
    return np.log10(np.where(values == 0, low / 10, values))


def _contours(axes: Axes, places: np.ndarray, values: np.ndarray, norm: Normalize, shades: Colormap) -> None:
    """Shade between points `(n, 2)`, if four or more are not on one line."""
    known = np.isfinite(places).all(1)
    places, values = places[known], values[known]
    low, high = norm.vmin, norm.vmax
    if len(places) < 4 or low is None or high is None or low == high:
        return
    # Which points are neighbours depends on the lengths of the axes.
    square = (places - places.min(0)) / np.maximum(np.ptp(places, axis=0), 1e-12)
    if np.linalg.matrix_rank(square - square.mean(0), tol=1e-6) < 2:
        return
    triangles = Triangulation(square[:, 0], square[:, 1]).triangles
    neighbours = Triangulation(places[:, 0], places[:, 1], triangles)
    levels = np.linspace(low, high, 9)
    axes.tricontourf(neighbours, values, levels, cmap=shades, norm=norm, extend="both", alpha=0.3, zorder=0)


def _best_and_worst_shown(searches: Sequence[np.ndarray], higher_is_better: bool) -> tuple[float, float]:
    """Ends of a scale that shows the best value of each search and the better half of the trials.

    The worst is infinite where all trials can be shown in at most twice the height.
    """
    finite = [each[np.isfinite(each)] for each in searches]
    best = _best(np.concatenate([*finite, np.empty(0)]), higher_is_better)
    endless = -math.inf if higher_is_better else math.inf
    if math.isnan(best):
        return best, endless
    values = np.concatenate(searches)
    away = np.abs(values[~np.isnan(values)] - best)
    last = max(abs(_best(each, higher_is_better) - best) for each in finite if len(each))
    reach = max(1.2 * last, 1.5 * float(np.median(away)))
    if away.max() <= 2 * reach:
        return best, endless
    return best, best - reach if higher_is_better else best + reach


def _aim(higher: bool) -> str:
    return f"({'higher' if higher else 'lower'} is better)"


def _name_points(
    figure: Figure, axes: Axes, points: np.ndarray, order: np.ndarray, names: Sequence[str], higher: tuple[bool, bool]
) -> None:
    """Write names beside the points `(N, 2)` of a front, where they cover least: rather on the better side of it.

    Args:
        figure: with its legend.
        axes: with all points and the staircase.
        points: of the front and others.
        order: indices of the front's, from left to right.
        names: of the front's.
        higher: whether higher is better, of either.
    """
    size, inch = 8, figure.dpi
    texts = [wrapped(name, 2.0, size) for name in names]
    sizes = [(max(map(len, text.split("\n"))) * LETTER * size, (text.count("\n") + 1) * LINE * size) for text in texts]
    low, high = axes.get_xlim()
    widest = 0.1 + max((width for width, _ in sizes), default=0.0)
    room = (high - low) * widest / (6.2 - widest)
    axes.set_xlim((low, high + room) if higher[0] else (low - room, high))
    figure.draw_without_rendering()  # places the axes
    spots = axes.transData.transform(points) / inch
    front = spots[order]
    corners = np.stack([front[:-1, 0], front[1:, 1]] if higher[0] else [front[1:, 0], front[:-1, 1]], axis=1)
    taken = [Bbox([spot, spot]).padded(0.04) for spot in spots]
    taken += [
        Bbox([end, corner]).padded(0.01)
        for ends in (front[:-1], front[1:])
        for end, corner in zip(ends, corners, strict=True)
    ]
    inside = Bbox(axes.bbox.get_points() / inch)
    better = [1 if each else -1 for each in higher]
    sides = [(better[0] * x, better[1] * y) for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    shifts = [(0.08 * x, (0.04 + 0.1 * step) * y) for step in range(12) for x, y in sides]
    for text, (width, height), place, spot in zip(texts, sizes, order, front, strict=True):
        boxes = [
            Bbox.from_bounds(spot[0] + right - width * (right < 0), spot[1] + up - height * (up < 0), width, height)
            for right, up in shifts
        ]
        costs = [sum(_shared(box, other) for other in taken) - 9 * _shared(box, inside) for box in boxes]
        chosen = int(np.argmin(np.round(costs, 6)))
        taken.append(boxes[chosen])
        right, up = shifts[chosen]
        written = axes.annotate(
            text, (points[place, 0], points[place, 1]), (72 * right, 72 * up), textcoords="offset points",
            ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top", fontsize=size, zorder=5,
            arrowprops={
                "arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3,
                "relpos": (float(right < 0), float(up < 0)),
            },
        )  # fmt: skip
        written.set_in_layout(False)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area that two boxes share."""
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0
