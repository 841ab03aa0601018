"""Are the pixels that the network is sure of the right ones? Risk against coverage."""

from collections.abc import Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from segmentation.plots.style import TITLE, colours, figure_with_axes, foot, in_percent, wrapped


def risk_coverage(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    areas: Mapping[str, str] | None = None,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    note: str | None = None,
) -> Figure:
    """Draw the share of wrong pixels among those kept, against the share of pixels kept, the most confident first.

    Args:
        series: by name, coverage `(n,)` and risk `(n,)`, in [0, 1].
        title: above the plot.
        areas: by name, the area under the curve as it shall be written in the legend.
        bands: by name, low and high ends `(n,)` of the 95 % interval of the risk; of some series or all.
        note: small print beneath, such as how it was measured.
    """
    figure, axes = figure_with_axes(6.4, 4.4)
    handles: list[Artist] = []
    for colour, (name, (coverage, risk)) in zip(colours(len(series)), series.items(), strict=True):
        label = f"{name} · {areas[name]}" if areas and name in areas else name
        handles += axes.plot(coverage, risk, lw=1.8, color=colour, label=label)
        if bands and name in bands:
            axes.fill_between(coverage, *bands[name], color=colour, alpha=0.18, lw=0)
    axes.set(title=wrapped(title, 6.0, TITLE), xlim=(0, 1))
    axes.set_xlabel("coverage: share of pixels kept, most confident first")
    axes.set_ylabel("risk: share of wrong among those kept")
    axes.set_ylim(bottom=0)
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)
    axes.grid(alpha=0.25)
    foot(figure, handles, note)
    return figure
