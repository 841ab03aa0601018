"""Results of a stage as JSON data: times, rates, ratios, and which goals are met."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.case import Case
from benchmarks.rounds import Times

STAGES = (
    "training", "step", "epoch", "pipeline", "inspection", "cache", "scoring", "tracking", "startup", "prediction",
    "intervals",
)  # fmt: skip
"""Order in which stages run and are shown; others follow by name."""
GROWTH = "growth"
DIGITS = 5
"""Significant digits that are stored."""

Record = dict[str, Any]


def ordered(names: Sequence[str]) -> list[str]:
    """Names of stages, in the order in which they run and are shown."""
    return sorted(names, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))


def measured(title: str, command: str, quick: bool) -> Record:
    """The first fields of every record: title, command, date, machine and versions."""
    return {
        "title": title, "command": command, "date": datetime.now(UTC).date().isoformat(), "quick": quick,
        "machine": machine.machine(), "versions": machine.versions(),
    }  # fmt: skip


def case_record(case: Case, times: Sequence[Times], compared: str) -> Record:
    """The results of one case.

    Args:
        case: the case.
        times: times of all contestants, with equal numbers of rounds.
        compared: the sentence that `case.same` returned.

    Returns:
        Name, unit and work of the case; times, rate (median work per second) and memory of each contestant; the ratio
        of our speed to that of each other; and the goals.
    """
    (ours,) = (each for each in times if each.role == "ours")
    ratios = {each.name: _ratio(ours.seconds, each.seconds) for each in times if each is not ours}
    for goal in case.goals:
        assert goal.other in ratios, f"{case.name}: there is a goal for {goal.other}, which is not a contestant"
    return {
        "name": case.name,
        "unit": case.unit,
        "work": case.work,
        "compared": compared,
        "contestants": [
            {
                "name": each.name, "role": each.role, "seconds": rounded(each.seconds),
                "core_seconds": rounded(each.core_seconds), "memory_mb": round(each.memory),
                "rate": rounded([case.work / statistics.median(each.seconds)])[0],
            }
            for each in times
        ],
        "ratios": ratios,
        "goals": [
            {
                "other": goal.other, "at_least": goal.at_least, "value": ratios[goal.other]["median"],
                "met": ratios[goal.other]["median"] >= goal.at_least,
            }
            for goal in case.goals
        ],
    }  # fmt: skip


def write(record: Mapping[str, Any], file: Path) -> None:
    """Write a record atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(file)


def read(folder: Path) -> dict[str, Record]:
    """The records in a folder by stage, in their order; growth comes last."""
    names = ordered([file.stem for file in folder.glob("*.json")])
    names.sort(key=lambda name: name == GROWTH)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def rounded(values: Sequence[float]) -> list[float]:
    """Values rounded to the stored digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _ratio(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Our speed divided by the other's in each round: median, minimum and maximum over the rounds."""
    found = [other / own for own, other in zip(ours, others, strict=True)]
    median, low, high = rounded([statistics.median(found), min(found), max(found)])
    return {"median": median, "low": low, "high": high}
