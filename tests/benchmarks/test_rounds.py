"""Contestants work in turns, each in its own process, and are compared within a round."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.case import Case, Goal
from benchmarks.results import case_record
from benchmarks.rounds import Contestant, ContestantError, Part, Times, in_turns


def append(file: str, letter: str) -> Callable[[], int]:
    """Appends its letter to a file; returns its process ID."""

    def run() -> int:
        with Path(file).open("a") as stream:
            stream.write(letter)
        return os.getpid()

    return run


def fail() -> Callable[[], float]:
    return lambda: 1 / 0


@pytest.mark.slow
def test_contestants_work_in_turns_in_separate_processes(tmp_path: Path) -> None:
    file = tmp_path / "order"
    contestants = [Contestant(letter, "peer", append, (str(file), letter)) for letter in "abc"]
    times = in_turns(contestants, rounds=2, warmups=1)
    assert file.read_text() == "abc" * 3
    assert [len(each.seconds) for each in times] == [2] * 3
    assert len({os.getpid(), *(each.value for each in times)}) == 4


def say_seconds(seconds: float) -> Callable[[], Part]:
    return lambda: Part(seconds, "said")


@pytest.mark.slow
def test_only_a_part_may_be_timed() -> None:
    (times,) = in_turns([Contestant("part", "ours", say_seconds, (1234.5,))], rounds=2)
    assert (times.seconds, times.value) == ([1234.5, 1234.5], "said")


@pytest.mark.slow
def test_a_failure_shows_its_traceback() -> None:
    with pytest.raises(ContestantError, match=r"(?s)broken: Traceback.*ZeroDivisionError"):
        in_turns([Contestant("broken", "peer", fail)], rounds=1)


def test_ratios_are_taken_within_a_round() -> None:
    """Relative to `plain` 3/1, 2/2 and 8/4; the ratio of the medians would be 1.5."""
    times = [
        Times("this project", "ours", [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], 100.6, None),
        Times("plain", "peer", [3.0, 2.0, 8.0], [6.0, 4.0, 16.0], 300.4, None),
    ]
    contestants = [Contestant(each.name, each.role, append) for each in times]
    goals = [Goal("plain", 2.0), Goal("plain", 2.1)]
    record = case_record(Case("LR-ASPP", "images", 12, contestants, lambda values: "", goals), times, "")
    assert record["ratios"] == {"plain": {"median": 2.0, "low": 1.0, "high": 3.0}}
    assert [goal["met"] for goal in record["goals"]] == [True, False]
    assert [each["rate"] for each in record["contestants"]] == [6.0, 4.0]
