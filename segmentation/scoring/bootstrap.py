"""How sure is a figure? What it would have been on other images: the bootstrap over images.

Images are resampled, never pixels, because neighbouring pixels are not independent. The intervals are bias-corrected
percentile intervals: Efron, "Nonparametric Standard Errors and Confidence Intervals", Canadian Journal of Statistics
1981. The correction matters for figures that add up distances, such as the ECE: chance makes them larger in resamples
than in the split, as it made them larger in the split than in truth.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch

RESAMPLES = 10_000
LEVEL = 0.95
NORMAL = NormalDist()
BLOCK = 256
"""Images whose draws are made at a time; a byte tells which."""
SPAN = 8
"""Blocks of images whose values are added up at a time, to bound the memory."""
TOGETHER = 1000
"""Resamples whose values are added up at a time: fewer would repeat the product's preparations more often."""
CACHE = 4 * 2**20
"""Bytes of sums from which figures are worked out at a time, few enough for the processor's cache."""
KEPT = 64 * 2**20
"""Bytes of draws that are kept for the next resampling of as many images; larger ones are made anew each time."""

Sums = Mapping[str, np.ndarray]
"""Arrays by name, each with one leading axis for images, or for resamples of them."""
Figures = Callable[[Sums], Mapping[str, np.ndarray]]
"""From sums over images `(..., K)` to figures `(...)`, whatever the leading axes; called from several threads."""


class Interval(NamedTuple):
    """Where a figure lies with the confidence asked for; NaN where it is not defined."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"


def resampled(
    figures: Figures, blocks: Iterable[Sums], images: int, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Figures of as many images as there are, drawn with replacement, many times.

    Args:
        figures: what follows from sums over images.
        blocks: arrays `(b, ...)` by name, one entry for each image; all images, some at a time.
        images: how many there are in all, `N`.
        resamples: how many times to draw `N` images, `R`.
        seed: of the draws; the same seed and number of images draws the same images, so that two networks can be
            compared in pairs.

    Returns:
        Arrays `(R,)` by the figures' names; none without images.
    """
    if images == 0:
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    sums = _sums(_flat_rows(blocks, shapes), images, resamples, seed)
    rows = max(1, CACHE // (8 * sums.shape[1]))

    def of_rows(start: int) -> Mapping[str, np.ndarray]:
        return figures(_named(sums[start : start + rows], shapes))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        parts = list(pool.map(of_rows, range(0, resamples, rows)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: np.ndarray, value: float, level: float = LEVEL) -> Interval:
    """Bias-corrected percentile interval of a figure.

    Args:
        values: the figure over resamples, `(R,)`; those that are not defined are left out.
        value: the figure itself.
        level: how often such intervals hold the truth.
    """
    values = values[np.isfinite(values)]
    if not len(values) or not np.isfinite(value):
        return Interval(np.nan, np.nan)
    shift = 2 * _bias(values, value)
    tail = NORMAL.inv_cdf((1 - level) / 2)
    low, high = np.quantile(values, [NORMAL.cdf(shift + tail), NORMAL.cdf(shift - tail)])
    return Interval(float(low), float(high))


def p_value(differences: np.ndarray, difference: float) -> float:
    """Two-sided p-value of "no difference": the level at which the bias-corrected interval would just touch 0.

    Davison and Hinkley, "Bootstrap Methods and their Application", 1997; at least 2 in R + 1, never 0.

    Args:
        differences: over paired resamples, `(R,)`.
        difference: between the figures themselves.
    """
    differences = differences[np.isfinite(differences)]
    if not len(differences) or not differences.any():
        return 1.0
    share = _share_below(differences, 0.0, len(differences) + 1)
    below = NORMAL.cdf(NORMAL.inv_cdf(share) - 2 * _bias(differences, difference))
    return min(1.0, 2 * max(min(below, 1 - below), 1 / (len(differences) + 1)))


def _bias(values: np.ndarray, value: float) -> float:
    """How far the middle of the resamples lies above a figure, in standard deviations, negated; at most 1 either way.

    Beyond that there are too few resamples on one side of the figure to say more.
    """
    return float(np.clip(NORMAL.inv_cdf(_share_below(values, value, len(values) + 1)), -1, 1))


def _share_below(values: np.ndarray, value: float, total: int) -> float:
    """Share of the values below a value, half of those that equal it counted; never 0 or 1."""
    below = (values < value).sum() + 0.5 * (values == value).sum()
    return float(np.clip(below / len(values), 1 / total, 1 - 1 / total))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having looked at several: Holm, "A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 1979."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _flat_rows(blocks: Iterable[Sums], shapes: dict[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    """Every image as one float32 row of all its values, which is precise enough for intervals; fills in `shapes`."""
    for block in blocks:
        shapes.update({name: values.shape[1:] for name, values in block.items()})
        yield from np.concatenate([values.reshape(len(values), -1) for values in block.values()], 1).astype(np.float32)


def _named(sums: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Flat sums `(R, K)` by name again, float64."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(sums.astype(np.float64), ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _sums(rows: Iterator[np.ndarray], images: int, resamples: int, seed: int) -> np.ndarray:
    """Rows `(K,)` of all images added up in each resample, `(R, K)` float32."""
    sums: np.ndarray | None = None
    for times in _draws(images, resamples, seed):
        values = np.array(list(islice(rows, times.shape[1])))
        if sums is None:
            sums = np.zeros((resamples, values.shape[1]), np.float32)
        for start in range(0, resamples, TOGETHER):
            sums[start : start + TOGETHER] += times[start : start + TOGETHER].astype(np.float32) @ values
    assert sums is not None
    return sums


def _draws(images: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """How often each image is drawn, `(R, b)` uint8, some images at a time.

    That one of more than 255 images is drawn more than 255 times will not happen: the odds are below 1 to 10**500.
    """
    make = _kept_draws if images * resamples <= KEPT else _new_draws
    return make(images, resamples, seed)


@lru_cache(maxsize=1)
def _kept_draws(images: int, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_new_draws(images, resamples, seed))


def _new_draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """First how many of a resample's draws fall into each block, then where in the block: together, uniform draws."""
    from segmentation.scoring.compiled_draws import count_draws

    random = np.random.default_rng(seed)
    sizes = np.full(-(-images // BLOCK), BLOCK)
    sizes[-1] = images - BLOCK * (len(sizes) - 1)
    draws = random.multinomial(images, sizes / images, size=resamples).T
    for start in range(0, len(sizes), SPAN):
        span = slice(start, start + SPAN)
        times = np.zeros((resamples, sizes[span].sum()), np.uint8)
        blocks = np.split(times, np.cumsum(sizes[span])[:-1], axis=1)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            counted = [
                pool.submit(count_draws, _places(random, size, drawn), drawn, block)
                for size, drawn, block in zip(sizes[span], draws[span], blocks, strict=True)
            ]
        for each in counted:
            each.result()
        yield times


def _places(random: np.random.Generator, size: int, drawn: np.ndarray) -> np.ndarray:
    """Places in a block of so many images, for all draws of the first resample, then of the second, and so on.

    For 256 images numpy takes the upper byte of each 16 bits; done for all at once, that takes half the time.
    """
    count = int(drawn.sum())
    if size != 256:
        return random.integers(0, size, count, dtype=np.uint16).astype(np.uint8)
    words = -(-count // 2)
    left_over = min(words, random.bit_generator.state["has_uint32"])  # half of 64 bits, from the block before
    whole, half = divmod(words - left_over, 2)
    parts = [
        random.integers(0, 2**32, left_over, dtype=np.uint32),
        random.bit_generator.random_raw(whole).astype("<u8", copy=False).view("<u4"),
        random.integers(0, 2**32, half, dtype=np.uint32),
    ]
    return np.concatenate(parts).astype("<u4", copy=False).view(np.uint8)[1::2][:count]
