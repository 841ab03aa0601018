"""Plots: functions from numbers to a matplotlib `Figure`, without computing metrics and without pyplot.

Matplotlib is imported by the first plot, not before the first step of a training run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentation.plots.class_frequencies import class_frequency
    from segmentation.plots.confusion_matrix import confusion
    from segmentation.plots.forest import differences
    from segmentation.plots.images import example, side_by_side
    from segmentation.plots.learning_curves import curves, curves_of_runs
    from segmentation.plots.predicted_image import legend, prediction
    from segmentation.plots.reliability_diagram import reliability, reliability_lines, reliability_panels
    from segmentation.plots.risk_coverage_curve import risk_coverage
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

_MODULES = {  # none has the name of its function: importing it would replace the function here
    "class_frequency": "class_frequencies",
    "confusion": "confusion_matrix",
    "curves": "learning_curves",
    "curves_of_runs": "learning_curves",
    "differences": "forest",
    "example": "images",
    "side_by_side": "images",
    "legend": "predicted_image",
    "prediction": "predicted_image",
    "reliability": "reliability_diagram",
    "reliability_lines": "reliability_diagram",
    "reliability_panels": "reliability_diagram",
    "risk_coverage": "risk_coverage_curve",
    "pixels": "style",
}


def __getattr__(name: str) -> Any:
    """Return a plot function from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
