"""Pictures: numbers in, `Figure` out. Nothing is computed here, and pyplot's global state is never touched."""

from segmentation.plots.diagrams import reliability, reliability_lines, reliability_panels
from segmentation.plots.epochs import curves, curves_of_runs
from segmentation.plots.forest import differences
from segmentation.plots.matrix import confusion
from segmentation.plots.pictures import example, side_by_side
from segmentation.plots.prediction import legend, prediction
from segmentation.plots.risk import risk_coverage
from segmentation.plots.search import (
    heat_maps,
    importances,
    pareto,
    plane,
    search_history,
    share_reached,
    trial_curves,
)
from segmentation.plots.style import pixels

__all__ = [
    "confusion",
    "curves",
    "curves_of_runs",
    "differences",
    "example",
    "heat_maps",
    "importances",
    "legend",
    "pareto",
    "pixels",
    "plane",
    "prediction",
    "reliability",
    "reliability_lines",
    "reliability_panels",
    "risk_coverage",
    "search_history",
    "share_reached",
    "side_by_side",
    "trial_curves",
]
