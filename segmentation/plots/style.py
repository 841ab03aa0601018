"""Style of all figures: colours, font sizes, line breaks, and title, legend and note outside the plots."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

BLUE, ORANGE, RED, GREY = "#0072b2", "#d55e00", "#c53030", "#718096"
"""Blue and orange are from `SERIES`. Red is never the only contrast to orange."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")
"""Safe for colour-blind readers: Okabe and Ito, "Color Universal Design", 2008; wine replaces their yellow."""
TITLE, LABEL, NOTE = 12, 9, 7.5
"""Font sizes in points of titles, legends and notes."""
LINE = 1.4 / 72
"""Height of a line in inches per point of font size."""
LETTER = 0.56 / 72
"""Upper estimate of the mean width of a letter in inches per point of font size."""
TIE = "\N{NO-BREAK SPACE}"


def figure_with_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one plot; sizes in inches."""
    figure = blank(width, height)
    axes = figure.subplots()
    clean(axes)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def clean(axes: Axes) -> None:
    """Hide the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)


def in_percent(axis: Axis) -> None:
    """Format the fractions along an axis as percent, without rounding."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


def colours(count: int) -> Sequence[str]:
    """One colour for each series."""
    if count <= len(SERIES):
        return SERIES[:count]
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))]


def wrapped(text: str, inches: float, size: float) -> str:
    """Text with lines broken at a width in inches for a font size, preferably after ` · `."""
    letters = max(8, int(inches / (LETTER * size)))
    lines: list[str] = []
    for line in text.split("\n"):
        tied = f"{TIE}· ".join(part.replace(" ", TIE) for part in line.split(" · "))
        for part in textwrap.wrap(tied, letters, break_long_words=False, break_on_hyphens=False) or [""]:
            lines += textwrap.wrap(part.replace(TIE, " "), letters) or [""]
    return "\n".join(lines)


def head(figure: Figure, title: str, size: float = TITLE) -> None:
    """Add a title above all plots; the figure grows by its height."""
    text = wrapped(title, figure.get_figwidth() - 0.2, size)
    figure.set_figheight(figure.get_figheight() + _height(text, size))
    figure.suptitle(text, fontsize=size)


def foot(figure: Figure, handles: Sequence[Artist] = (), note: str | None = None, size: float = LABEL) -> None:
    """Add a legend and a small grey note below all plots; the figure grows by their height.

    Args:
        figure: a figure with all its plots.
        handles: artists of the legend, with labels.
        note: text such as the scoring protocol.
        size: font size of the legend in points.
    """
    width = figure.get_figwidth()
    note = wrapped(note, width - 0.2, NOTE) if note else ""
    labels = [wrapped(str(handle.get_label()), width - 0.9, size) for handle in handles]
    below = _height(note, NOTE) if note else 0.0
    needed = below
    if labels:
        letters = max(len(line) for label in labels for line in label.split("\n"))
        columns = min(len(labels), max(1, int((width - 0.2) / (letters * LETTER * size + 0.6))))
        needed += 0.15 + max(sum(_height(label, size) for label in part) for part in np.array_split(labels, columns))
    height = figure.get_figheight() + needed
    figure.set_figheight(height)
    figure.set_layout_engine("constrained", rect=(0, needed / height, 1, 1 - needed / height))
    if note:
        figure.text(0.1 / width, 0.05 / height, note, va="bottom", fontsize=NOTE, color=GREY, in_layout=False)
    if labels:
        legend = figure.legend(
            handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=size, borderaxespad=0,
            bbox_to_anchor=(0, (below + 0.04) / height, 1, 1),
        )  # fmt: skip
        legend.set_in_layout(False)


def _height(text: str, size: float) -> float:
    return (text.count("\n") + 1) * size * LINE + 0.02


def draw_band(axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str) -> None:
    """Shade an interval around a line, with a stroke at each point, so that single points show one too."""
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.vlines(x, low, high, color=colour, alpha=0.45, lw=1.4)


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image `(H, W, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
