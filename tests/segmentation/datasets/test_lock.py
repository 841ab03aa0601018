"""Real processes that share a folder: one works, the others wait, and nobody waits for the dead."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from segmentation.config import DataConfig
from segmentation.datasets import cache, load_split, lock
from segmentation.datasets.lock import alone
from segmentation.processes import me

FORK = multiprocessing.get_context("fork")


def begun(work: Callable[[], None], *more: Callable[[], None]) -> list[ForkProcess]:
    processes = [FORK.Process(target=each) for each in (work, *more)]
    for process in processes:
        process.start()
    return processes


def ended(processes: list[ForkProcess]) -> list[int | None]:
    for process in processes:
        process.join(30)
    return [process.exitcode for process in processes]


def test_nobody_works_beside_another(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            with alone(tmp_path / "lock", "works"):
                (tmp_path / "inside").mkdir()  # fails if somebody is
                time.sleep(0.002)
                (tmp_path / "inside").rmdir()
                with (tmp_path / "done").open("a") as done:
                    done.write("x")

    assert ended(begun(work, work, work)) == [0, 0, 0]
    assert (tmp_path / "done").read_text() == 60 * "x"
    assert not (tmp_path / "lock").exists()


def test_of_several_processes_one_builds_and_the_others_say_that_they_wait(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data), resize=32, crop=32, cache_dir=str(tmp_path / "kept"))
    write = cache._write

    def slowly(source: cache.Source, config: DataConfig, split: str, folder: Path) -> None:
        with (tmp_path / "builds").open("a") as builds:
            builds.write(f"{os.getpid()}\n")
        time.sleep(1)
        write(source, config, split, folder)

    def use(number: int) -> Callable[[], None]:
        def work() -> None:
            with (tmp_path / f"said-{number}").open("w") as said, pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.stdout", said)
                assert len(load_split(config, "train")) == 6

        return work

    monkeypatch.setattr(cache, "_write", slowly)
    assert ended(begun(use(0), use(1), use(2))) == [0, 0, 0]
    (builder,) = (tmp_path / "builds").read_text().split()
    said = sorted((tmp_path / f"said-{number}").read_text() for number in range(3))
    assert said[0] == ""
    for each in said[1:]:
        assert each == f"Waiting for process {builder} on {socket.gethostname()}, which prepares folder/train.\n"
    assert [path.name for path in (tmp_path / "kept").glob("*/.*")] == []


def test_a_dead_owner_is_not_waited_for(tmp_path: Path) -> None:
    def die() -> None:
        with alone(tmp_path / "lock", "works"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(begun(die)) == [-signal.SIGKILL]
    assert json.loads((tmp_path / "lock").read_text())["process"]["pid"] != os.getpid()
    began = time.monotonic()
    with alone(tmp_path / "lock", "works"):
        assert json.loads((tmp_path / "lock").read_text())["process"] == me()
    assert time.monotonic() - began < 5
    assert list(tmp_path.glob("lock*")) == []


@pytest.mark.parametrize(
    "text",
    ["", "half of it {", json.dumps({"process": me() | {"host": "elsewhere"}, "beat": 1})],
    ids=["empty", "half", "whole"],
)
def test_an_owner_elsewhere_is_taken_for_dead_when_it_writes_nothing_for_a_while(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.6)
    file, over = tmp_path / "lock", threading.Event()
    file.write_text(text)
    beats: list[float] = []

    def beat() -> None:
        while not over.wait(0.1):
            file.write_text(f"{text} {len(beats)}")
            beats.append(time.monotonic())

    elsewhere = threading.Thread(target=beat)
    elsewhere.start()
    waiting = threading.Timer(1.5, over.set)
    waiting.start()
    with alone(file, "works"):
        assert time.monotonic() - beats[-1] > 0.4
        assert len(beats) > 5
    elsewhere.join()
    assert not file.exists()


def test_an_owner_that_was_taken_for_dead_leaves_the_lock_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    file, next_owner = tmp_path / "lock", json.dumps({"process": me() | {"pid": 1}, "beat": 0})
    with alone(file, "works"):
        file.write_text(next_owner)
        time.sleep(0.3)
        assert file.read_text() == next_owner
    assert file.read_text() == next_owner
