"""Reliability diagrams: accuracy against confidence, of one whole, of its parts side by side, of several overlaid."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from segmentation.plots.style import (
    BLUE,
    GREY,
    LABEL,
    NOTE,
    RED,
    TITLE,
    blank,
    clean,
    colours,
    draw_band,
    foot,
    head,
    in_percent,
    wrapped,
)
from segmentation.reliability import Bins
from segmentation.resampling import Interval

MARKERS = "osD^v<>p"


def reliability(
    bins: Bins,
    title: str,
    ece: Interval | None = None,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    note: str | None = None,
) -> Figure:
    """Draw accuracy against confidence for each bin, the gap between them, and the share of pixels per bin.

    Args:
        bins: the numbers; drawn as they are.
        title: above the plot; say which split and which epoch.
        ece: 95 % interval of the expected calibration error, to be written beside it.
        band: low and high ends `(n,)` of the 95 % interval of each bin's accuracy; anything for empty bins.
        note: small print beneath, such as how it was measured.
    """
    figure, top, bottom = _diagram_above_shares(title)
    edges, filled = bins.edges, bins.count > 0
    left, width = edges[:-1][filled], 1 / len(bins.count)
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]

    _bars(top, bins)
    if band is not None:
        low, high = band[0][filled], band[1][filled]
        halo = [withStroke(linewidth=3.5, foreground="white")]
        label = "95 % interval of the accuracy"
        top.vlines(confidence, low, high, color="black", lw=1.5, path_effects=halo, label=label, zorder=3)
        for end in (low, high):
            top.plot(confidence, end, "_", ms=7, mew=1.5, color="black", path_effects=halo, zorder=3)
    top.plot(confidence, accuracy, "o", ms=4.5, color="black", label="at the bin's mean confidence", zorder=4)
    if filled.any():
        top.legend(loc="upper left", fontsize=LABEL, framealpha=0.85, edgecolor="none", borderpad=0.2)
    box = {"facecolor": "white", "edgecolor": "0.8", "alpha": 0.9}
    top.text(
        0.98, 0.04, _figures(bins, ece), transform=top.transAxes, ha="right", va="bottom", fontsize=10, bbox=box,
        zorder=5,
    )  # fmt: skip

    bottom.bar(left, bins.share[filled], width, align="edge", color=GREY, edgecolor="white")
    for x, share in zip(left + width / 2, bins.share[filled], strict=True):
        bottom.annotate(
            f"{share:.0%}" if share >= 0.01 else "<1%", (x, share), (0, 2), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip
    bottom.set_ylim(0, min(1.0, 1.25 * bins.share[filled].max(initial=0)) or 1)
    foot(figure, note=note)
    return figure


def reliability_panels(groups: Mapping[str, Bins], title: str, note: str | None = None) -> Figure:
    """Draw one small reliability diagram for each part of the pixels, such as each class.

    Args:
        groups: the numbers of each part by its name; a part without pixels is shown as such.
        title: above the panels.
        note: small print beneath, such as how it was measured.
    """
    rows = max(1, round(math.sqrt(len(groups) / 1.5)))
    columns = max(1, math.ceil(len(groups) / rows))
    side = max(2.2, 6.6 / columns)
    figure = blank(columns * side + 0.3, rows * (min(side, 3.5) + 0.45) + 0.2)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    total = sum(int(bins.count.sum()) for bins in groups.values())
    for place, (axes, (name, bins)) in enumerate(zip(panels, groups.items(), strict=False)):
        _panel(axes, name, bins, total, side)
        lowest = place + columns >= len(groups)
        axes.tick_params(labelsize=8, labelbottom=lowest, labelleft=place % columns == 0)
        axes.set_xlabel("confidence" if lowest else "", fontsize=LABEL)
        axes.set_ylabel("accuracy" if place % columns == 0 else "", fontsize=LABEL)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    head(figure, title)
    # A panel without pixels has less to explain.
    foot(figure, max((_key(axes) for axes in panels), key=len), note)
    return figure


def reliability_lines(
    series: Mapping[str, Bins],
    title: str,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    note: str | None = None,
) -> Figure:
    """Overlay reliability diagrams as lines through the bins' mean confidences, and their shares of pixels.

    Args:
        series: the numbers by name.
        title: above the plot.
        bands: by name, low and high ends `(n,)` of the 95 % interval of each bin's accuracy; of some series or all.
        note: small print beneath, such as how it was measured.
    """
    figure, top, bottom = _diagram_above_shares(title)
    _diagonal(top)
    for place, (colour, (name, bins)) in enumerate(zip(colours(len(series)), series.items(), strict=True)):
        filled = bins.count > 0
        confidence, accuracy = bins.confidence[filled], bins.accuracy[filled]
        top.plot(
            confidence, accuracy, f"{MARKERS[place % len(MARKERS)]}-", ms=5, lw=1.6, mec="white", mew=0.5,
            color=colour, zorder=3,
            label=f"{name} · ECE {bins.ece():.4f}" if filled.any() else f"{name} · no pixels",
        )  # fmt: skip
        if bands and name in bands:
            low, high = bands[name]
            draw_band(top, confidence, low[filled], high[filled], colour)
        if filled.any():
            bottom.stairs(bins.share, bins.edges, color=colour, lw=1.4)
    highest = max((bins.share.max() for bins in series.values() if bins.count.any()), default=1.0)
    bottom.set_ylim(0, min(1.0, 1.15 * highest))
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
    foot(figure, _key(top), note)
    return figure


def _diagram_above_shares(title: str) -> tuple[Figure, Axes, Axes]:
    figure = blank(6.4, 6.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.set(title=wrapped(title, 6.0, TITLE), ylabel="accuracy of the pixels", xlim=(0, 1), ylim=(0, 1))
    bottom.set(xlabel="confidence", ylabel="share of pixels")
    in_percent(bottom.yaxis)
    bottom.set_xticks(np.linspace(0, 1, 11))
    for axes in (top, bottom):
        clean(axes)
    return figure, top, bottom


def _key(axes: Axes) -> list[Artist]:
    return axes.get_legend_handles_labels()[0]


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfect calibration")


def _bars(axes: Axes, bins: Bins) -> None:
    filled, width = bins.count > 0, 1 / len(bins.count)
    left, accuracy, confidence = bins.edges[:-1][filled], bins.accuracy[filled], bins.confidence[filled]
    _diagonal(axes)
    axes.bar(left, accuracy, width, align="edge", color=BLUE, alpha=0.75, edgecolor="white", label="accuracy")
    axes.bar(
        left, confidence - accuracy, width, accuracy, align="edge", facecolor="none", edgecolor=RED, hatch="///",
        lw=0.8, label="gap",
    )  # fmt: skip


def _panel(axes: Axes, name: str, bins: Bins, total: int, side: float) -> None:
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
        bins.confidence[filled], bins.accuracy[filled], 3 + 50 * bins.share[filled], color="black", zorder=4, lw=0,
        label="mean confidence, area by pixels",
    )  # fmt: skip
    share = bins.count.sum() / total
    size = f"{share:.1%}" if share >= 0.001 else "<0.1%"
    axes.annotate(
        f"{size} of pixels\nECE {bins.ece():.3f}, {_lean(bins)} by {abs(bins.signed_gap()):.3f}",
        (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", va="bottom", fontsize=NOTE,
    )  # fmt: skip


def _figures(bins: Bins, ece: Interval | None) -> str:
    if not bins.count.any():
        return "no pixels"
    return "\n".join([
        f"ECE {bins.ece():.4f}{f' {ece}' if ece else ''}",
        f"MCE {bins.mce():.4f}",
        f"{_lean(bins)}-confident by {abs(bins.signed_gap()):.4f}",
    ])  # fmt: skip


def _lean(bins: Bins) -> str:
    return "over" if bins.signed_gap() < 0 else "under"
