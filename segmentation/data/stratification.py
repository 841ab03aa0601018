"""Divides images into parts so that every class is in as many parts as it can be, in equal proportion.

Iterative stratification: the rarest class is distributed first, each of its images to the part that lacks most of it
(Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011). Moves of images then
remove what remains of missing classes and wrong sizes. All arithmetic is on integers, and ties are broken by hashes of
names, so the result is the same on every machine and for every order of the images.

scikit-learn's StratifiedGroupKFold takes one class per image, and iterative-stratification takes no groups.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOVES_TRIED = 100
"""Number of moves that are tried as the first of a sequence."""
LONGEST_SEQUENCE = 5
"""Most moves in a sequence."""


def stratify(groups: Sequence[str], classes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the part of each image, `(N,)` int.

    In this order of importance: no part is empty, a class in `n` groups is in `min(n, parts)` parts, the parts have the
    wanted sizes, and each class is divided in proportion to the sizes.

    Args:
        groups: group of each of `N` images, which is never divided; there are at least as many groups as parts.
        classes: `(N, C)` bool, whether an image shows a class.
        sizes: wanted number of images of each part; the sum is `N`.
    """
    units = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    index = {group: number for number, group in enumerate(units)}
    unit_of = np.array([index[group] for group in groups])
    counts = np.zeros((len(units), classes.shape[1]), np.int64)
    np.add.at(counts, unit_of, classes)
    problem = _Problem(counts, np.bincount(unit_of, minlength=len(units)), np.array(sizes, np.int64))
    parts = _distributed(problem)
    _refine(problem, parts)
    return parts[unit_of]


@dataclass(frozen=True)
class _Problem:
    """`G` groups to divide into `P` parts."""

    counts: np.ndarray
    """`(G, C)`, images of a group that show a class."""
    weights: np.ndarray
    """`(G,)`, images of a group."""
    sizes: np.ndarray
    """`(P,)`, wanted images of a part."""

    @cached_property
    def has(self) -> np.ndarray:
        """`(G, C)`, whether a group shows a class."""
        return (self.counts > 0).astype(np.int64)

    @cached_property
    def images(self) -> int:
        """Number of all images."""
        return int(self.sizes.sum())

    @cached_property
    def shares(self) -> np.ndarray:
        """`(P, C)`, wanted images of a class in a part, times `images`."""
        return np.outer(self.sizes, self.counts.sum(0))

    @cached_property
    def spread(self) -> np.ndarray:
        """`(C,)`, number of parts that a class can be in."""
        return np.minimum(self.has.sum(0), len(self.sizes))


def _distributed(problem: _Problem) -> np.ndarray:
    """Return the part of each group by iterative stratification; no part exceeds its size where that can be avoided."""
    parts = np.full(len(problem.weights), -1)
    room, wanted = problem.sizes.copy(), problem.shares.copy()
    present = np.zeros_like(wanted, bool)

    def put(unit: int, category: int | None) -> None:
        def suits(part: int) -> tuple[int, ...]:
            fits = int(room[part] >= problem.weights[unit])
            if category is None:
                return fits, int(room[part]), -part
            lacks = int(not present[part, category])
            scarce = problem.has[:, category].sum() < len(room)
            size = int(problem.sizes[part]) if scarce else 0  # most images are for training: it needs the class first
            left = wanted[part, category], wanted[part] @ problem.has[unit], room[part] * problem.images
            return fits, lacks, size, *(int(images // problem.sizes[part]) for images in left), -part

        part = max(range(len(room)), key=suits)
        parts[unit] = part
        room[part] -= problem.weights[unit]
        wanted[part] -= problem.images * problem.counts[unit]
        present[part] |= problem.counts[unit] > 0

    left = problem.has.sum(0)
    while left.any():
        category = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for unit in np.flatnonzero((parts < 0) & (problem.has[:, category] > 0)):
            put(int(unit), category)
            left -= problem.has[unit]
    for unit in np.flatnonzero(parts < 0):
        put(int(unit), None)
    return parts


def _refine(problem: _Problem, parts: np.ndarray) -> None:
    """Move groups while that reduces the number of missing classes or the error of the sizes.

    Sequences of moves are searched as by Kernighan and Lin, "An efficient heuristic procedure for partitioning graphs",
    Bell System Technical Journal 1970: a first move may be for the worse.
    """
    while _badness(problem, parts):
        badness, uneven = _changes(problem, parts)
        order = np.lexsort((uneven.ravel(), badness.ravel()))[:MOVES_TRIED]
        sequences = [_sequence(problem, parts, *divmod(int(move), len(problem.sizes))) for move in order]
        change, better = min(sequences, key=lambda each: each[0])
        if change >= 0:
            return
        parts[:] = better


def _sequence(problem: _Problem, parts: np.ndarray, unit: int, part: int) -> tuple[int, np.ndarray]:
    """Return the lowest change of the badness in a sequence of best moves after a given one, and the parts then."""
    parts, moved = parts.copy(), [unit]
    before = _badness(problem, parts)
    parts[unit] = part
    found = [(_badness(problem, parts) - before, parts.copy())]
    for _ in range(LONGEST_SEQUENCE - 1):
        badness, uneven = _changes(problem, parts)
        badness[moved] = np.iinfo(np.int64).max
        unit, part = divmod(int(np.lexsort((uneven.ravel(), badness.ravel()))[0]), len(problem.sizes))
        parts[unit] = part
        moved.append(unit)
        found.append((_badness(problem, parts) - before, parts.copy()))
    return min(found, key=lambda each: each[0])


def _badness(problem: _Problem, parts: np.ndarray) -> int:
    """Empty parts, then missing classes, then wrong sizes, as one number; 0 is best."""
    actual, units_with = _state(problem, parts)
    missing = int((problem.spread - (units_with > 0).sum(0)).sum())
    base = 2 * problem.images + 1
    return (int((actual == 0).sum()) * (problem.spread.sum() + 1) + missing) * base + int(
        abs(actual - problem.sizes).sum()
    )


def _state(problem: _Problem, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images of each part `(P,)`, and groups of each part that show a class `(P, C)`."""
    actual = np.zeros(len(problem.sizes), np.int64)
    np.add.at(actual, parts, problem.weights)
    units_with = np.zeros_like(problem.shares)
    np.add.at(units_with, parts, problem.has)
    return actual, units_with


def _changes(problem: _Problem, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the badness and of the proportions of classes if a group moves to a part, each `(G, P)`."""
    actual, units_with = _state(problem, parts)
    surplus = -problem.shares
    np.add.at(surplus, parts, problem.images * problem.counts)
    unit_sizes = problem.weights[:, None]
    base = 2 * problem.images + 1
    before = abs(actual - problem.sizes)
    left, joined = actual[parts][:, None] - unit_sizes, actual + unit_sizes
    sizes = abs(left - problem.sizes[parts][:, None]) - before[parts][:, None]
    sizes = sizes + abs(joined - problem.sizes) - before
    empty = (left == 0).astype(np.int64) - (actual == 0)
    missing, uneven = np.zeros_like(sizes), np.zeros_like(sizes)
    for part in range(len(problem.sizes)):
        units = np.flatnonzero(parts == part)
        # a part that loses the last group with a class, or gains the first one
        loses, gains = units_with[part] == 1, units_with == 0
        missing[units] = problem.has[units] @ (loses & ~gains).T - problem.has[units] @ (gains & ~loses).T
        more = problem.images * problem.counts[units]
        uneven[units] += (abs(surplus[part] - more) - abs(surplus[part])).sum(1)[:, None]
        more = problem.images * problem.counts
        uneven[:, part] += (abs(surplus[part] + more) - abs(surplus[part])).sum(1)
    badness = (empty * (problem.spread.sum() + 1) + missing) * base + sizes
    stays = np.arange(len(problem.sizes)) == parts[:, None]
    badness[stays] = uneven[stays] = 0
    return badness, uneven
