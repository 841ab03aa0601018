"""Reliability diagrams: accuracy against confidence of one split, of its groups side by side, or of several models."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from segmentation.plots.style import (
    BLUE,
    GREY,
    LABEL,
    NOTE,
    ORANGE,
    blank,
    clean,
    colours,
    draw_band,
    foot,
    head,
    in_percent,
    wrapped,
)
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.calibration_error import confidence_verdict
from segmentation.scoring.reliability import Bins

MARKERS = "osD^v<>p"
FEW = 0.01
"""Fraction of the pixels below which a bin is not part of the line."""
SOLID = 0.05
"""Fraction of the pixels above which a bin has full opacity; bins with fewer fade."""
SOLID_BAR = 0.7
"""Full opacity of an accuracy bar."""
FAINTEST = 0.12
"""Smallest relative opacity of a bin."""
HOLLOW: dict[str, Any] = {"ls": "none", "ms": 3.5, "mfc": "white", "mew": 0.8}
"""Style of the points of bins with few pixels."""
BARS = 0.8
"""Fraction of a bin's width that the bars of all series take together."""


def reliability(
    bins: Bins,
    title: str,
    ece: Interval | None = None,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    note: str | None = None,
    gap: Interval | None = None,
) -> Figure:
    """Reliability diagram: accuracy and gap of each bin of confidence, above the fraction of pixels in each bin.

    Bins fade with their fraction of pixels, see `opacity`.

    Args:
        bins: the numbers of the diagram.
        title: above the plot, such as split and epoch.
        ece: 95 % interval of the expected calibration error, written next to it.
        band: low and high ends `(n,)` of the 95 % interval of each bin's accuracy; anything for empty bins.
        note: small print below the plot, such as the scoring protocol.
        gap: 95 % interval of accuracy minus confidence; the title calls a model over- or under-confident only with it.
    """
    figure, top, bottom = _diagram_above_fractions()
    edges, filled = bins.edges, bins.count > 0
    left, width = edges[:-1][filled], 1 / len(bins.count)
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    black = [(0.0, 0.0, 0.0, strength) for strength in opacity(bins)[filled].tolist()]
    _bars(top, bins)
    if band is not None:
        low, high = band[0][filled], band[1][filled]
        halo = [withStroke(linewidth=3.5, foreground="white")]
        top.vlines(confidence, low, high, color=black, lw=1.5, path_effects=halo, zorder=3)
        for end in (low, high):
            top.scatter(confidence, end, 49, black, marker="_", lw=1.5, path_effects=halo, zorder=3, clip_on=False)
    top.scatter(confidence, accuracy, 20, black, lw=0, zorder=4, clip_on=False)
    top.set_title(_subtitle(bins, ece, gap), fontsize=10)

    bottom.bar(left, bins.fraction[filled], width, align="edge", color=GREY, edgecolor="white")
    for x, fraction in zip(left + width / 2, bins.fraction[filled], strict=True):
        bottom.annotate(
            f"{fraction:.0%}" if fraction >= 0.01 else "<1%", (x, fraction), (0, 2), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip
    bottom.set_ylim(0, min(1.0, 1.25 * bins.fraction[filled].max(initial=0)) or 1)
    head(figure, title)
    key = _bars_key(Line2D([], [], color="black", marker="o", ls="none", ms=4.5, label="bin at its mean confidence"))
    if band is not None:
        key.append(Line2D([], [], color="black", lw=1.5, label="95 % interval of the accuracy"))
    foot(figure, key if filled.any() else (), note)
    return figure


def opacity(bins: Bins) -> np.ndarray:
    """Relative opacity of each bin, `(n,)` in [0, 1], by its fraction of the pixels.

    A bin with almost no pixels adds almost nothing to the ECE, so its bar is faint.
    """
    return np.clip(np.sqrt(np.nan_to_num(bins.fraction) / SOLID), FAINTEST, 1)


def reliability_panels(
    groups: Mapping[str, Bins], title: str, note: str | None = None, gaps: Mapping[str, Interval] | None = None
) -> Figure:
    """One small reliability diagram for each group of pixels, such as each class.

    Args:
        groups: numbers by name of the group; those without pixels have no panel, and the note names them.
        title: above the panels.
        note: small print below the plot, such as the scoring protocol.
        gaps: by name, 95 % interval of accuracy minus confidence; see `reliability`.
    """
    if filled := {name: bins for name, bins in groups.items() if bins.count.any()}:
        if empty := [name for name in groups if name not in filled]:
            note = " · ".join(filter(None, [f"no pixels: {', '.join(empty)}", note]))
        groups = filled
    rows = max(1, round(math.sqrt(len(groups) / 1.5)))
    columns = max(1, math.ceil(len(groups) / rows))
    side = max(2.2, 6.6 / columns)
    figure = blank(columns * side + 0.3, rows * (min(side, 3.5) + 0.45) + 0.2)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    total = sum(int(bins.count.sum()) for bins in groups.values())
    for index, (axes, (name, bins)) in enumerate(zip(panels, groups.items(), strict=False)):
        _panel(axes, name, bins, total, side, (gaps or {}).get(name))
        lowest = index + columns >= len(groups)
        axes.tick_params(labelsize=8, labelbottom=lowest, labelleft=index % columns == 0)
        axes.set_xlabel("confidence" if lowest else "", fontsize=LABEL)
        axes.set_ylabel("accuracy" if index % columns == 0 else "", fontsize=LABEL)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    head(figure, title)
    points = Line2D([], [], color="black", marker="o", ls="none", label="bin at its mean confidence, area ∝ pixels")
    foot(figure, _bars_key(points) if total else (), note)
    return figure


def reliability_lines(
    series: Mapping[str, Bins],
    title: str,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    note: str | None = None,
) -> Figure:
    """Several reliability diagrams as lines through the bins at their mean confidence, above the fractions of pixels.

    Bins with less than 1 % of the pixels are small hollow points outside the line. The fractions of the series are bars
    side by side in each bin.

    Args:
        series: the numbers by name.
        title: above the plot.
        bands: by name of some or all series, low and high ends `(n,)` of the 95 % interval of each bin's accuracy.
        note: small print below the plot, such as the scoring protocol.
    """
    figure, top, bottom = _diagram_above_fractions()
    _diagonal(top)
    has_few = False
    for index, (colour, (name, bins)) in enumerate(zip(colours(len(series)), series.items(), strict=True)):
        filled, marker = bins.count > 0, MARKERS[index % len(MARKERS)]
        confidence, accuracy = bins.confidence[filled], bins.accuracy[filled]
        many = bins.fraction[filled] >= FEW
        if (~many).any():
            has_few = True
            top.plot(confidence[~many], accuracy[~many], color=colour, marker=marker, clip_on=False, **HOLLOW)
        top.plot(
            confidence[many], accuracy[many], f"{marker}-", ms=5, lw=1.6, mec="white", mew=0.5, color=colour, zorder=3,
            label=f"{name} · ECE {bins.ece():.4f}" if filled.any() else f"{name} · no pixels",
            clip_on=not many.any(),  # an empty line that is not clipped counts as text at the figure's corner
        )  # fmt: skip
        if bands and name in bands:
            low, high = bands[name]
            draw_band(top, confidence[many], low[filled][many], high[filled][many], colour)
        if filled.any():
            width = BARS / len(bins.count) / len(series)
            left = bins.edges[:-1] + (1 - BARS) / 2 / len(bins.count) + index * width
            bottom.bar(left, bins.fraction, width, align="edge", color=colour)
    highest = max((bins.fraction.max() for bins in series.values() if bins.count.any()), default=1.0)
    bottom.set_ylim(0, min(1.0, 1.15 * highest))
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
    head(figure, title)
    hollow = Line2D([], [], color=GREY, label=f"bin with < {FEW:.0%} of the pixels", marker="o", **HOLLOW)
    foot(figure, [*_key(top), *([hollow] if has_few else [])], note)
    return figure


def _diagram_above_fractions() -> tuple[Figure, Axes, Axes]:
    figure = blank(6.4, 6.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    bottom.set(xlabel="confidence", ylabel="fraction of pixels")
    in_percent(bottom.yaxis)
    bottom.set_xticks(np.linspace(0, 1, 11))
    for axes in (top, bottom):
        clean(axes)
    return figure, top, bottom


def _key(axes: Axes) -> list[Artist]:
    return axes.get_legend_handles_labels()[0]


def _bars_key(*further: Artist) -> list[Artist]:
    """Legend entries of a bar diagram, in full opacity."""
    return [
        Line2D([], [], color=GREY, ls="--", lw=1, label="perfect calibration"),
        Patch(color=BLUE, alpha=SOLID_BAR, label="accuracy"),
        Patch(facecolor="none", edgecolor=ORANGE, hatch="///", label="gap between accuracy and confidence"),
        *further,
    ]


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfect calibration")


def _bars(axes: Axes, bins: Bins) -> None:
    filled, width = bins.count > 0, 1 / len(bins.count)
    left, accuracy, confidence = bins.edges[:-1][filled], bins.accuracy[filled], bins.confidence[filled]
    _diagonal(axes)
    alpha = opacity(bins)[filled]
    accuracy_bars = axes.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white")
    gap_bars = axes.bar(
        left, confidence - accuracy, width, accuracy, align="edge", facecolor="none", edgecolor=ORANGE, hatch="///",
        lw=0.8,
    )  # fmt: skip
    for bars, full in ((accuracy_bars, SOLID_BAR), (gap_bars, 1.0)):
        for bar, strength in zip(bars, alpha, strict=True):
            bar.set_alpha(full * strength)


def _panel(axes: Axes, name: str, bins: Bins, total: int, side: float, gap: Interval | None) -> None:
    clean(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_title(wrapped(name, side - 0.3, LABEL), fontsize=LABEL, weight="bold", loc="left", pad=3.5 * NOTE)
    filled = bins.count > 0
    if not filled.any():
        _diagonal(axes)
        axes.text(0.5, 0.5, "no pixels", ha="center", va="center", color=GREY, fontsize=LABEL, backgroundcolor="white")
        return
    _bars(axes, bins)
    axes.scatter(
        bins.confidence[filled], bins.accuracy[filled], 3 + 50 * bins.fraction[filled], color="black", zorder=4, lw=0,
        clip_on=False,
    )  # fmt: skip
    fraction = bins.count.sum() / total
    size = f"{fraction:.1%}" if fraction >= 0.001 else "<0.1%"
    axes.annotate(
        f"{size} of pixels, ECE {bins.ece():.4f}\n{_lean(bins, gap)}",
        (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", va="bottom", fontsize=NOTE,
    )  # fmt: skip


def _subtitle(bins: Bins, ece: Interval | None, gap: Interval | None) -> str:
    if not bins.count.any():
        return "no pixels"
    worst = bins.fraction[np.nanargmax(np.abs(bins.gap))]
    fraction = f"{100 * worst:.2g} %" if worst >= 0.001 else "less than 0.1 %"
    where = f" (in a bin with {fraction} of the pixels)" if worst < SOLID else ""
    return "\n".join([
        f"ECE {bins.ece():.4f}{f' {ece}' if ece else ''} · {_lean(bins, gap)}",
        f"MCE {bins.mce():.4f}{where}",
    ])  # fmt: skip


def _lean(bins: Bins, gap: Interval | None) -> str:
    """Verdict on the confidence; only the number where its interval is unknown."""
    if gap is None:
        return f"accuracy − confidence {bins.signed_gap():+.4f}"
    return confidence_verdict(bins.signed_gap(), gap)
