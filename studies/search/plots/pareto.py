"""Trials over two objectives, with the Pareto front."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from segmentation.plots.style import BLUE, GREY, LETTER, LINE, ORANGE, figure_with_axes, foot, head, wrapped


def pareto_front(
    x: np.ndarray,
    y: np.ndarray,
    front: np.ndarray,
    names: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str,
    higher: tuple[bool, bool],
    best: int | None = None,
    best_name: str = "",
) -> Figure:
    """Draw trials over two objectives, and the Pareto front as a staircase with the names of its trials.

    Args:
        x: first objective of each trial, `(N,)`.
        y: second objective, `(N,)`.
        front: `(N,)` bool, whether a trial is on the Pareto front: no other is as good in both and better in one.
        names: names of the trials.
        xlabel: name of the first objective, with its unit.
        ylabel: name of the second.
        title: title of the figure.
        higher: whether higher is better, for each objective.
        best: index of the study's best trial, which gets a star.
        best_name: the best trial and the objective by which it is best, for the legend.
    """
    figure, axes = figure_with_axes(7.2, 5.0)
    order = np.flatnonzero(front)[np.lexsort((y[front], x[front]))]
    handles: list[Artist] = []
    if len(order):
        # A step keeps its value until the next point in the worse direction.
        stairs = "steps-pre" if higher[0] else "steps-post"
        label = f"on the Pareto front ({len(order)})"
        handles += axes.plot(x[order], y[order], "o-", ms=7, lw=1.6, color=BLUE, drawstyle=stairs, label=label)
    if not front.all():
        label = f"dominated ({(~front).sum()})"
        handles += axes.plot(x[~front], y[~front], "o", ms=5, mew=0, alpha=0.6, color=GREY, zorder=1.9, label=label)
    if best is not None:
        handles += axes.plot(
            x[best], y[best], "*", ms=15, mew=1, mec="black", color=ORANGE, ls="", zorder=3, label=best_name
        )
    axes.set_xlabel(wrapped(f"{xlabel} {_direction(higher[0])}", 6.0, 10))
    axes.set_ylabel(wrapped(f"{ylabel} {_direction(higher[1])}", 4.0, 10))
    axes.margins(0.06, 0.15)
    axes.grid(alpha=0.25)
    head(figure, title)
    foot(figure, handles)
    _label_points(figure, axes, np.stack([x, y], axis=1), order, [names[index] for index in order], higher)
    return figure


def _direction(higher: bool) -> str:
    return f"({'higher' if higher else 'lower'} is better)"


def _label_points(
    figure: Figure, axes: Axes, points: np.ndarray, order: np.ndarray, names: Sequence[str], higher: tuple[bool, bool]
) -> None:
    """Write the names of the front's points where they overlap least, preferably on the better side of the front.

    Args:
        figure: the figure with its legend.
        axes: the axes with all points and the staircase.
        points: all points, `(N, 2)`.
        order: indices of the front's points, from left to right.
        names: names of the front's points.
        higher: whether higher is better, for each objective.
    """
    size, inch = 8, figure.dpi
    texts = [wrapped(name, 2.0, size) for name in names]
    sizes = [(max(map(len, text.split("\n"))) * LETTER * size, (text.count("\n") + 1) * LINE * size) for text in texts]
    low, high = axes.get_xlim()
    widest = 0.1 + max((width for width, _ in sizes), default=0.0)
    room = (high - low) * widest / (6.2 - widest)
    axes.set_xlim((low, high + room) if higher[0] else (low - room, high))
    figure.draw_without_rendering()  # computes the layout
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
    for text, (width, height), index, spot in zip(texts, sizes, order, front, strict=True):
        boxes = [
            Bbox.from_bounds(spot[0] + right - width * (right < 0), spot[1] + up - height * (up < 0), width, height)
            for right, up in shifts
        ]
        costs = [sum(_overlap(box, other) for other in taken) - 9 * _overlap(box, inside) for box in boxes]
        chosen = int(np.argmin(np.round(costs, 6)))
        taken.append(boxes[chosen])
        right, up = shifts[chosen]
        label = axes.annotate(
            text, (points[index, 0], points[index, 1]), (72 * right, 72 * up), textcoords="offset points",
            ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top", fontsize=size, zorder=5,
            arrowprops={
                "arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3,
                "relpos": (float(right < 0), float(up < 0)),
            },
        )  # fmt: skip
        label.set_in_layout(False)


def _overlap(one: Bbox, other: Bbox) -> float:
    """Area in which two boxes overlap."""
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0
