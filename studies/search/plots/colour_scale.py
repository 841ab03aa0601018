"""Colours of metric values, the same in heat maps and scatter plots."""

import math
from collections.abc import Sequence
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, Normalize

from segmentation.plots.learning_curves import FAR

CLIPPED = 3
"""Values farther from the best than this many times the median distance get the last colour of the scale."""


def best_value(values: np.ndarray, higher_is_better: bool | None) -> float:
    """The best of the finite values; NaN if there is none or no direction."""
    if higher_is_better is None or not len(values):
        return math.nan
    return float(values.max() if higher_is_better else values.min())


def format_value(value: float) -> str:
    """A value with three decimals, or two digits if it is very large."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2g}"


def colour_map(higher_is_better: bool | None) -> Colormap:
    """A colour map in which better values are brighter."""
    return matplotlib.colormaps["viridis_r" if higher_is_better is False else "viridis"].with_extremes(bad="0.92")


def text_colour(background: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with a background colour."""
    luminance = np.asarray(background[:3]) ** 2.2 @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.18 else "white"


def colour_scale(
    values: np.ndarray, higher_is_better: bool | None
) -> tuple[Normalize, Literal["neither", "min", "max", "both"]]:
    """Normalisation for a colour map, and the ends at which it clips outliers.

    The scale ends `CLIPPED` times the median distance from the best value, or `FAR` times from the median value if the
    metric has no direction.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return Normalize(0, 1), "neither"
    centre, times = best_value(values, higher_is_better), CLIPPED
    if higher_is_better is None:
        centre, times = float(np.median(values)), FAR
    distance = np.abs(values - centre)
    limit = times * float(np.median(distance[distance > 0])) if distance.any() else 0.0
    low, high = max(float(values.min()), centre - limit), min(float(values.max()), centre + limit)
    below, above = bool(values.min() < low), bool(values.max() > high)
    extend: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]]
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    return Normalize(low, high), extend[below, above]
