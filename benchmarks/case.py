"""What a stage measures: the same work for all contestants, with the same result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import Contestant

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
"""Folders `train`, `trainannot`, `val`, `valannot`."""


@dataclass(frozen=True)
class Goal:
    """How fast we want to be beside another contestant."""

    other: str
    """Its name."""
    at_least: float
    """Our speed divided by the other's."""


@dataclass(frozen=True)
class Case:
    """One piece of work."""

    name: str
    unit: str
    """What is counted, such as `images`."""
    work: float
    """How many of them a round takes."""
    contestants: Sequence[Contestant]
    """Exactly one has the role `ours`."""
    same: Callable[[Mapping[str, Any]], str]
    """Given what the contestants returned in the last round, by name: fails with an `AssertionError` unless the results
    are the same, and says in a sentence what was compared."""
    goals: Sequence[Goal] = ()
    rounds: int = 5
    warmups: int = 1
