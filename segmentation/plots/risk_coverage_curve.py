"""Risk-coverage curves: error rate of the most confident pixels."""

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
    """Error rate of the kept pixels against the fraction of pixels kept, most confident first.

    Args:
        series: by name, coverage `(n,)` and risk `(n,)`, in [0, 1].
        title: above the plot.
        areas: by name, the area under the curve as text for the legend.
        bands: by name of some or all series, low and high ends `(n,)` of the 95 % interval of the risk.
        note: small print below the plot, such as the scoring protocol.
    """
    figure, axes = figure_with_axes(6.4, 4.4)
    handles: list[Artist] = []
    for colour, (name, (coverage, risk)) in zip(colours(len(series)), series.items(), strict=True):
        label = f"{name} · {areas[name]}" if areas and name in areas else name
        handles += axes.plot(coverage, risk, lw=1.8, color=colour, label=label)
        if bands and name in bands:
            axes.fill_between(coverage, *bands[name], color=colour, alpha=0.18, lw=0)
    axes.set(title=wrapped(title, 6.0, TITLE), xlim=(0, 1))
    axes.set_xlabel("coverage: fraction of pixels kept, most confident first")
    axes.set_ylabel("risk: error rate of the pixels kept")
    axes.set_ylim(bottom=0)
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)
    axes.grid(alpha=0.25)
    foot(figure, handles, note)
    return figure
