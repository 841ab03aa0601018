"""How sure is a figure? What it would have been on other images: the bootstrap over images.

Images are resampled, never pixels, because neighbouring pixels are not independent. The intervals are the percentile
intervals of Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
BLOCK = 2**21
"""Draws made at a time, to bound the memory."""


class Interval(NamedTuple):
    """Where a figure lies with the confidence asked for; NaN where it is not defined."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"


def resampled_sums(
    per_image: Mapping[str, np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Sum over as many images as there are, drawn with replacement, many times.

    Args:
        per_image: arrays `(N, ...)` with one entry for each image; all are summed over the same draws.
        resamples: how many times, `R`.
        seed: of the draws; the same seed draws the same images, so that two networks can be compared in pairs.

    Returns:
        Arrays `(R, ...)` float64.
    """
    images = len(next(iter(per_image.values())))
    flat = np.concatenate([values.reshape(images, -1) for values in per_image.values()], axis=1, dtype=np.float64)
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, images))
    sums = np.empty((resamples, flat.shape[1]))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        draws = random.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        times = np.bincount(draws.ravel(), minlength=rows * images).reshape(rows, images)
        sums[start : start + rows] = times.astype(np.float64) @ flat
    ends = np.cumsum([values[0].size for values in per_image.values()])[:-1]
    parts = np.split(sums, ends, axis=1)
    return {
        name: part.reshape(resamples, *values.shape[1:])
        for (name, values), part in zip(per_image.items(), parts, strict=True)
    }


def intervals(
    figures: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    per_image: Mapping[str, np.ndarray],
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile interval of every figure that follows from sums over images.

    Args:
        figures: from sums `(..., K)` to figures `(...)`, whatever the leading axes.
        per_image: arrays `(N, ...)` whose sums over images the figures follow from.
        resamples: how many times to draw as many images.
        level: share of the resamples inside the interval.
        seed: of the draws.
    """
    if len(next(iter(per_image.values()))) == 0:
        return {}
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = figures(resampled_sums(per_image, resamples, seed))
    return {
        name: Interval(*(float(end) for end in np.quantile(values[np.isfinite(values)], tails)))
        if np.isfinite(values).any()
        else Interval(np.nan, np.nan)
        for name, values in found.items()
    }
