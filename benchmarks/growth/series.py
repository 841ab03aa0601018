"""The same work at several sizes, and the exponent with which its time grows."""

import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Record, rounded
from benchmarks.rounds import Contestant, in_turns

Prepare = Callable[[str, int], Callable[[], Any]]
"""Called with a folder and a size in a separate process; prepares everything and returns the function that is timed."""


@dataclass(frozen=True)
class Series:
    """One kind of work at several sizes."""

    name: str
    against: str
    """Meaning of the sizes, such as `training images`."""
    unit: str
    """Unit for the time per unit; empty if the time should not depend on the size."""
    prepare: Prepare
    sizes: Sequence[int]
    quick: Sequence[int] = ()
    """Sizes of the quick mode, which omits series without any."""
    calls: int = 1
    """Number of repetitions in a round."""
    rounds: int = 3
    warmups: int = 1


@contextmanager
def place() -> Iterator[Path]:
    """A temporary folder for the data of all series."""
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        yield Path(folder)


def measured(series: Series, folder: Path, quick: bool, rounds: Callable[[int, int], Callable[[str], None]]) -> Record:
    """Measure the work at every size, in turns.

    Args:
        series: the work.
        folder: folder for its data.
        quick: whether to use the sizes of the quick mode, with one round and no warm-up.
        rounds: given the numbers of rounds and of sizes, returns a function that prints the progress.

    Returns:
        Name, sizes and unit of the series, times and memory at each size, and the exponent.
    """
    sizes, times_each, warmups = (series.quick, 1, 0) if quick else (series.sizes, series.rounds, series.warmups)
    contestants = []
    for size in sizes:
        own = Path(tempfile.mkdtemp(dir=folder))
        contestants.append(Contestant(f"{size:,}", "ours", _ready, (series.prepare, str(own), size, series.calls)))
    found = in_turns(contestants, times_each, warmups, rounds(times_each, len(sizes)), quick)
    points = [
        {
            "x": size, "seconds": rounded([seconds / series.calls for seconds in each.seconds]),
            "core_seconds": rounded([seconds / series.calls for seconds in each.core_seconds]),
            "memory_mb": round(each.memory),
        }
        for size, each in zip(sizes, found, strict=True)
    ]  # fmt: skip
    return {
        "name": series.name, "against": series.against, "unit": series.unit, "points": points,
        "exponent": exponent(points),
    }  # fmt: skip


def exponent(points: Sequence[Record]) -> float:
    """Slope of log time over log size between the first and the last point."""
    (first, before), (last, after) = (
        (each["x"], statistics.median(each["seconds"])) for each in (points[0], points[-1])
    )
    return round(math.log(after / before) / math.log(last / first), 3)


def _ready(prepare: Prepare, folder: str, size: int, calls: int) -> Callable[[], None]:
    os.chdir(folder)
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    run = prepare(folder, size)
    with suppress(OSError):  # so that the peak excludes the preparation
        Path("/proc/self/clear_refs").write_text("5")

    def several() -> None:
        for _ in range(calls):
            run()

    return several
