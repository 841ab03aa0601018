"""Tiny contestants, in a file of their own, which their processes import without pytest."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def noting(file: str, letter: str) -> Callable[[], int]:
    """Appends its letter to a file."""

    def run() -> int:
        with Path(file).open("a") as stream:
            stream.write(letter)
        return os.getpid()

    return run


def looking(name: str) -> Callable[[], str | None]:
    """Returns a variable of the environment, as it was before anything was run."""
    value = os.environ.get(name)
    return lambda: value


def sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def computing(seconds: float) -> Callable[[], None]:
    def run() -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return run


def filling(ready: int, work: int) -> Callable[[], int]:
    """Takes so many MB to get ready, gives them back, and takes so many to work."""
    len(b"1" * (ready * 2**20))
    return lambda: len(b"1" * (work * 2**20))


def failing(when: str) -> Callable[[], Any]:
    """Fails when it gets ready, when it works, or ends without a word."""

    def run() -> float:
        if when == "dies":
            os._exit(1)
        return 1 / 0

    return run() if when == "ready" else run


def growing(folder: str, size: int) -> Callable[[], None]:
    """Needs a millisecond for each, and notes that it has worked, in its own folder."""

    def run() -> None:
        with Path("worked").open("a") as stream:
            stream.write(f"{size}\n")
        time.sleep(size / 1000)

    assert Path(folder) == Path.cwd()
    return run
