"""Real processes that share a folder: one works, the others wait, and nobody waits for the dead."""

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
from segmentation.data import cache, load_split
from segmentation.data.lock import alone

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
    assert (tmp_path / "lock").exists()
    began = time.monotonic()
    with alone(tmp_path / "lock", "works"):
        assert (tmp_path / "lock.owner").read_text().startswith(f"process {os.getpid()} on ")
    assert time.monotonic() - began < 5
    assert list(tmp_path.glob("lock*")) == []


def test_a_stopped_owner_keeps_the_lock_and_no_clock_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than anybody waits, with a lock file that was written years ago, it is still the owner."""

    def work() -> None:
        with alone(tmp_path / "lock", "works"):
            os.utime(tmp_path / "lock", (1, 1))
            os.kill(os.getpid(), signal.SIGSTOP)
            (tmp_path / "done").touch()

    (process,) = begun(work)
    os.waitpid(process.pid or 0, os.WUNTRACED)
    threading.Timer(1, os.kill, (process.pid, signal.SIGCONT)).start()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 2**33)
        with alone(tmp_path / "lock", "works"):
            assert (tmp_path / "done").exists()
    assert ended([process]) == [0]


def test_a_lock_file_that_was_left_behind_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"process": {"host": "elsewhere", "pid": 1, "started": 1.0}, "beat": 1}')
    began = time.monotonic()
    with alone(tmp_path / "lock", "works"):
        assert time.monotonic() - began < 1
    assert list(tmp_path.glob("lock*")) == []
