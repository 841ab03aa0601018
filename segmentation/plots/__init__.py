"""Plots: functions from numbers to a matplotlib `Figure`, without computing metrics and without pyplot."""

from segmentation.plots.class_frequency import class_frequency
from segmentation.plots.confusion_matrix import confusion
from segmentation.plots.curves import curves, curves_of_runs
from segmentation.plots.forest import differences
from segmentation.plots.images import example, side_by_side
from segmentation.plots.prediction import legend, prediction
from segmentation.plots.reliability_diagram import reliability, reliability_lines, reliability_panels
from segmentation.plots.risk_coverage import risk_coverage
from segmentation.plots.style import pixels

__all__ = [
    "class_frequency",
    "confusion",
    "curves",
    "curves_of_runs",
    "differences",
    "example",
    "legend",
    "pixels",
    "prediction",
    "reliability",
    "reliability_lines",
    "reliability_panels",
    "risk_coverage",
    "side_by_side",
]
