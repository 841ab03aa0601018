"""Contestants work in turns, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rounds import Contestant, ContestantError, in_turns
from tests.benchmarks import contestants
from tests.conftest import PROJECT


def test_they_work_in_turns_each_in_a_process_of_its_own(tmp_path: Path) -> None:
    file, told = tmp_path / "order", []
    taking_part = [Contestant(letter, "peer", contestants.noting, (str(file), letter)) for letter in "abc"]
    times = in_turns(taking_part, rounds=3, warmups=2, tell=told.append)
    assert file.read_text() == "abc" * 5
    assert [each.name for each in times] == list("abc")
    assert [(len(each.seconds), len(each.core_seconds)) for each in times] == [(3, 3)] * 3
    assert len({os.getpid(), *(each.value for each in times)}) == 4
    assert [text.split(" s")[0][:17] for text in told[:4]] == [
        "round 1 of 3: a 0", "round 1 of 3: b 0", "round 1 of 3: c 0", "round 2 of 3: a 0",
    ]  # fmt: skip
    assert len(told) == 9


def test_each_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUND", "outside")
    monkeypatch.delenv("SHORE", raising=False)
    times = in_turns(
        [
            Contestant("set", "ours", contestants.looking, ("GROUND",), {"GROUND": "inside"}),
            Contestant("left", "peer", contestants.looking, ("GROUND",), {"SHORE": "inside"}),
            Contestant("new", "peer", contestants.looking, ("SHORE",), {"SHORE": "here"}),
            Contestant("none", "peer", contestants.looking, ("SHORE",)),
        ],
        rounds=1,
        warmups=0,
    )
    assert [each.value for each in times] == ["inside", "outside", "here", None]
    assert os.environ["GROUND"] == "outside"
    assert "SHORE" not in os.environ


def test_time_on_the_clock_and_time_of_the_cores() -> None:
    sleeper, computer = in_turns(
        [
            Contestant("sleeper", "ours", contestants.sleeping, (0.2,)),
            Contestant("computer", "peer", contestants.computing, (0.2,)),
        ],
        rounds=2,
        warmups=0,
    )
    assert all(0.2 <= seconds < 2 for seconds in sleeper.seconds)
    assert all(seconds < 0.05 for seconds in sleeper.core_seconds)
    assert all(0.19 <= seconds < 0.4 for seconds in computer.core_seconds)
    assert all(clock >= 0.19 for clock in computer.seconds)


def test_memory_is_that_of_the_work() -> None:
    """In a process of its own, since a peak is inherited from whoever starts a process."""
    program = (
        "from benchmarks.rounds import Contestant, in_turns\n"
        "from tests.benchmarks import contestants\n"
        "if __name__ == '__main__':\n"
        "    taking_part = [Contestant('', 'ours', contestants.filling, (20, work)) for work in (40, 120)]\n"
        "    print(*(each.memory for each in in_turns(taking_part, rounds=1, warmups=0)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    few, many = map(float, done.stdout.split())
    assert 18 < few < 45  # 20 of these 40 MB it may have had when it was ready
    assert 78 < many - few < 82


@pytest.mark.parametrize("when", ["ready", "works"])
def test_the_traceback_of_one_that_fails_is_told(when: str, tmp_path: Path) -> None:
    file = tmp_path / "order"
    well = Contestant("well", "ours", contestants.noting, (str(file), "w"))
    with pytest.raises(ContestantError, match=r"(?s)Traceback.*contestants\.py.*return 1 / 0.*ZeroDivisionError"):
        in_turns([well, Contestant("ill", "peer", contestants.failing, (when,))], rounds=3, warmups=1)
    assert (file.read_text() if file.exists() else "") == ("" if when == "ready" else "w")


def test_one_that_ends_without_a_word_is_told() -> None:
    with pytest.raises(ContestantError, match="without a word"):
        in_turns([Contestant("ill", "peer", contestants.failing, ("dies",))], rounds=1)
