"""Bootstrap over images: 95 % intervals and p-values of metrics.

Images are resampled, never pixels, because neighbouring pixels are not independent. The intervals are bias-corrected
percentile intervals: Efron, "Nonparametric Standard Errors and Confidence Intervals", Canadian Journal of Statistics
1981. The correction matters for metrics that add up absolute values, such as the ECE: sampling noise makes them larger,
once in the split and once more in each resample.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
NORMAL = NormalDist()
BLOCK = 2048
"""Images that are drawn and summed at a time, which bounds the memory: 20 MB of draws for 10,000 resamples."""
TOGETHER = 1000
"""Resamples in one matrix product."""
DRAWN_TOGETHER = 50
"""Resamples whose images are drawn at a time."""
CACHE = 4 * 2**20
"""Bytes of sums that one call of a metrics function gets, few enough for the processor's cache."""
MAX_CACHED_DRAWS = 64 * 2**20
"""Draws of at most this many bytes are cached for the next call with as many images."""

Sums = Mapping[str, np.ndarray]
"""Arrays by name, each with one leading axis for images or for resamples."""
MetricsOfSums = Callable[[Sums], Mapping[str, np.ndarray]]
"""From sums over images `(..., K)` to metrics `(...)`, for any leading axes; called from several threads."""


class Interval(NamedTuple):
    """Confidence interval of a metric; NaN where the metric is undefined."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"


def resampled(
    metrics: MetricsOfSums, blocks: Iterable[Sums], images: int, resamples: int | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Metrics of bootstrap resamples: `N` images drawn with replacement, `R` times.

    Args:
        metrics: computes metrics from sums over images.
        blocks: arrays `(b, ...)` by name with one entry per image; together they cover all images.
        images: number of images, `N`.
        resamples: number of resamples, `R`; None for `RESAMPLES`.
        seed: seed of the draws. The same seed and number of images draw the same images, which pairs the resamples of
            two models.

    Returns:
        Arrays `(R,)` by metric; an empty dictionary without images.
    """
    if images == 0:
        return {}
    resamples = RESAMPLES if resamples is None else resamples
    shapes: dict[str, tuple[int, ...]] = {}
    sums = _sums(_flat_rows(blocks, shapes), images, resamples, seed)
    rows = max(1, CACHE // (8 * sums.shape[1]))

    def of_rows(start: int) -> Mapping[str, np.ndarray]:
        return metrics(_named(sums[start : start + rows], shapes))

    import torch  # here, since a report or a comparison may need nothing else of it

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = list(pool.map(of_rows, range(0, resamples, rows)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: np.ndarray, value: float, level: float = LEVEL) -> Interval:
    """Bias-corrected percentile interval of a metric.

    Args:
        values: the metric of each resample, `(R,)`; NaN and infinite values are ignored.
        value: the metric of the split.
        level: nominal coverage of the interval.
    """
    values = values[np.isfinite(values)]
    if not len(values) or not np.isfinite(value):
        return Interval(np.nan, np.nan)
    shift = 2 * _bias(values, value)
    tail = NORMAL.inv_cdf((1 - level) / 2)
    low, high = np.quantile(values, [NORMAL.cdf(shift + tail), NORMAL.cdf(shift - tail)])
    return Interval(float(low), float(high))


def p_value(differences: np.ndarray, difference: float) -> float:
    """Two-sided p-value of "no difference": one minus the level at which the bias-corrected interval touches 0.

    Davison and Hinkley, "Bootstrap Methods and their Application", 1997. At least 2 / (R + 1).

    Args:
        differences: difference in each paired resample, `(R,)`.
        difference: difference between the metrics of the two splits.
    """
    differences = differences[np.isfinite(differences)]
    if not len(differences) or not differences.any():
        return 1.0
    fraction = _fraction_below(differences, 0.0, len(differences) + 1)
    below = NORMAL.cdf(NORMAL.inv_cdf(fraction) - 2 * _bias(differences, difference))
    return min(1.0, 2 * max(min(below, 1 - below), 1 / (len(differences) + 1)))


def _bias(values: np.ndarray, value: float) -> float:
    """Bias correction z0 = Phi^-1(fraction of resamples below the metric), clipped to [-1, 1].

    Beyond that range too few resamples lie on one side of the metric to estimate it.
    """
    return float(np.clip(NORMAL.inv_cdf(_fraction_below(values, value, len(values) + 1)), -1, 1))


def _fraction_below(values: np.ndarray, value: float, total: int) -> float:
    """Fraction of the values below a value, with ties counted half; clipped to stay inside (0, 1)."""
    below = (values < value).sum() + 0.5 * (values == value).sum()
    return float(np.clip(below / len(values), 1 / total, 1 - 1 / total))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple tests.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], level: float = LEVEL) -> list[float]:
    """Levels of the intervals that agree with `holm`: each is the level at which Holm's method tests that value.

    The smallest of `m` p-values is tested at `1 - (1 - level) / m`, the next at `1 - (1 - level) / (m - 1)`, and so on.
    The first that is not significant ends the procedure, so all larger ones have its level. An interval at this level
    excludes 0 if and only if the adjusted p-value is below `1 - level`. Serlin, "Confidence Intervals and the
    Scientific Method: A Case for Holm on the Range", Journal of Experimental Education 1993; Ludbrook, "Multiple
    Inferences Using Confidence Intervals", Clinical and Experimental Pharmacology and Physiology 2000.
    """
    levels, tests = [0.0] * len(p_values), len(p_values)
    for index in np.argsort(p_values, kind="stable"):
        levels[index] = 1 - (1 - level) / tests
        if tests * p_values[index] < 1 - level and tests > 1:
            tests -= 1
    return levels


def _flat_rows(blocks: Iterable[Sums], shapes: dict[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    """Yield each image's values as one row, float32, which is precise enough for intervals; fills in `shapes`."""
    for block in blocks:
        shapes.update({name: values.shape[1:] for name, values in block.items()})
        yield from np.concatenate([values.reshape(len(values), -1) for values in block.values()], 1).astype(np.float32)


def _named(sums: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Flat sums `(R, K)` as arrays by name, float64."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(sums.astype(np.float64), ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _sums(rows: Iterator[np.ndarray], images: int, resamples: int, seed: int) -> np.ndarray:
    """Sum of the rows `(K,)` of the images in each resample, `(R, K)` float32."""
    sums: np.ndarray | None = None
    for counts in _draws(images, resamples, seed):
        values = np.array(list(islice(rows, counts.shape[1])))
        if sums is None:
            sums = np.zeros((resamples, values.shape[1]), np.float32)
        for start in range(0, resamples, TOGETHER):
            sums[start : start + TOGETHER] += counts[start : start + TOGETHER].astype(np.float32) @ values
    assert sums is not None
    return sums


def _draws(images: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """How often each image is in each resample, `(R, b)` uint8, for one block of images after the other."""
    make = _cached_draws if images * resamples <= MAX_CACHED_DRAWS else _new_draws
    return make(images, resamples, seed)


@lru_cache(maxsize=1)
def _cached_draws(images: int, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_new_draws(images, resamples, seed))


def _new_draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw how many images of each resample fall into each block, then which ones: together, uniform draws.

    A count above 255, which uint8 cannot hold, has a probability below 10**-500.
    """
    random = np.random.default_rng(seed)
    sizes = np.diff([*range(0, images, BLOCK), images])
    drawn = random.multinomial(images, sizes / images, size=resamples)
    for size, numbers in zip(sizes, drawn.T, strict=True):
        counts = np.empty((resamples, size), np.uint8)
        for rows in (slice(start, start + DRAWN_TOGETHER) for start in range(0, resamples, DRAWN_TOGETHER)):
            chunk = numbers[rows]
            cells = random.integers(size, size=chunk.sum()) + np.repeat(size * np.arange(len(chunk)), chunk)
            counts[rows] = np.bincount(cells, minlength=len(chunk) * size).reshape(-1, size)
        yield counts
