"""A case: the same work for all contestants, with the same result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import Contestant

DATA = Path(__file__).parents[2] / "shared" / "data"
CAMVID = DATA / "camvid"
"""Folders `train`, `trainannot`, `val`, `valannot`."""
VOC = DATA / "voc"
"""Folder `VOCdevkit` with a part of VOC 2007."""


@dataclass(frozen=True)
class Goal:
    """A target for our speed relative to another contestant."""

    other: str
    """Name of the contestant."""
    at_least: float
    """Our speed divided by the other's."""


@dataclass(frozen=True)
class Case:
    """One piece of work."""

    name: str
    unit: str
    """Unit of the work, such as `images`."""
    work: float
    """Number of units in a round."""
    contestants: Sequence[Contestant]
    """Exactly one has the role `ours`."""
    same: Callable[[Mapping[str, Any]], str]
    """Compares what the contestants returned in the last round, by name. Raises an `AssertionError` unless the results
    are the same; returns a sentence about the comparison."""
    goals: Sequence[Goal] = ()
    rounds: int = 5
    warmups: int = 1
