"""What is kept of a stage: ratios and goals by hand, and files that are whole."""

import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.case import Case, Goal
from benchmarks.machine import described, machine, versions
from benchmarks.rounds import Contestant, Times


def case(*goals: Goal) -> Case:
    roles = {"plain": "peer", "this project": "ours", "bare": "limit"}
    taking_part = [Contestant(name, role, print) for name, role in roles.items()]  # type: ignore[arg-type]
    return Case("LR-ASPP", "images", 12, taking_part, lambda values: "", goals)


TIMES = [
    Times("plain", "peer", [3.0, 2.0, 8.0], [6.0, 4.0, 16.0], 300.4, None),
    Times("this project", "ours", [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], 100.6, None),
    Times("bare", "limit", [0.5, 1.5, 3.6], [0.5, 1.5, 3.6], 0.0, None),
]


def test_ratios_are_taken_within_a_round_and_then_their_median() -> None:
    """Beside `plain` 3/1, 2/2, 8/4; the ratio of the medians would be 1.5. Beside `bare` 0.5, 0.75, 0.9."""
    record = results.case_record(case(), TIMES, "all agree")
    assert record["ratios"] == {
        "plain": {"median": 2.0, "low": 1.0, "high": 3.0},
        "bare": {"median": 0.75, "low": 0.5, "high": 0.9},
    }
    assert [record[name] for name in ("name", "unit", "work", "compared")] == ["LR-ASPP", "images", 12, "all agree"]
    assert record["contestants"][1] == {
        "name": "this project", "role": "ours", "seconds": [1.0, 2.0, 4.0], "core_seconds": [1.0, 2.0, 3.0],
        "memory_mb": 101, "rate": 6.0,
    }  # fmt: skip
    assert record["contestants"][0]["rate"] == 4.0
    assert record["contestants"][2]["rate"] == 8.0


def test_goals_are_met_or_not() -> None:
    record = results.case_record(case(Goal("plain", 2.0), Goal("bare", 0.76)), TIMES, "")
    assert record["goals"] == [
        {"other": "plain", "at_least": 2.0, "value": 2.0, "met": True},
        {"other": "bare", "at_least": 0.76, "value": 0.75, "met": False},
    ]
    with pytest.raises(AssertionError, match="goal beside nobody"):
        results.case_record(case(Goal("nobody", 1.0)), TIMES, "")


def test_what_is_written_is_read_in_the_order_of_the_stages(tmp_path: Path) -> None:
    for name in ("growth", "zebra", "scoring", "apple", "training"):
        results.write({"title": name}, tmp_path / "new" / f"{name}.json")
    assert list(results.read(tmp_path / "new")) == ["training", "scoring", "apple", "zebra", "growth"]
    assert results.read(tmp_path / "new")["apple"] == {"title": "apple"}
    with pytest.raises(TypeError):
        results.write({"title": object()}, tmp_path / "new" / "apple.json")
    assert json.loads((tmp_path / "new" / "apple.json").read_text()) == {"title": "apple"}
    assert len(list((tmp_path / "new").iterdir())) == 5
    assert results.read(tmp_path / "nothing") == {}


def test_a_record_says_where_it_was_measured() -> None:
    import torch

    record = results.measured("Scoring", "python -m benchmarks scoring", quick=False)
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] == versions()["torch"]
    assert set(record["machine"]) <= {"cpu", "cores", "features", "memory_gb", "os", "kernel"}
    assert record["machine"] == machine()
    about = {"cpu": "X1", "cores": 2, "features": ["avx2"], "memory_gb": 24, "os": "Debian", "kernel": "Linux 6.1"}
    assert described(about) == "X1 (avx2), 2 cores, 24 GB, Debian, Linux 6.1"
    assert described({"cores": 2, "os": "macOS", "kernel": "Darwin 1"}) == "unknown CPU, 2 cores, macOS, Darwin 1"
