"""Detects forbidden side effects of an input: files outside its folder, other programs, too much memory or time."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 20
"""Time limit of an input. Right inputs take far less than a second."""
MEMORY = 300 * 2**20
"""Limit on the growth of the process's peak memory; all inputs are small files."""

RUNS_A_PROGRAM = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Broken(BaseException):
    """A forbidden side effect. Not an `Exception`, so that no decoder's error handling catches it."""


class Watch:
    """State of the audit hook. There is one per process, because an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Folder in which files may be written; None outside `guarded`."""
        self.forbidden: Path | None = None
        """Folder in which no file may be read."""
        self.seen: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record forbidden events. An exception raised here would be caught by the tested code."""
        if self.folder is None:
            return
        if event in RUNS_A_PROGRAM:
            self.seen.append(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, _, flags = arguments
            nameless = os.path.isdir(path)  # noqa: PTH112 - a temporary file in a folder, without a name
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not nameless:
                self._written(event, path)
            else:
                self._read(path)
        elif event in WRITES and not (event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] >= 0):
            # with an open folder as the last argument, the path is relative to it, and opening it was checked
            for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                self._written(event, path)

    def _written(self, event: str, path: Any) -> None:
        assert self.folder is not None
        if isinstance(path, str | bytes | os.PathLike):
            absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - `Path` would access the disk
            if not absolute.startswith((str(self.folder), "/dev/", "/proc/self/")):
                self.seen.append(f"{event} {absolute}")

    def _read(self, path: str | bytes) -> None:
        if self.forbidden is not None and os.path.abspath(os.fsdecode(path)).startswith(str(self.forbidden)):  # noqa: PTH100
            self.seen.append(f"read {os.fsdecode(path)}")


WATCH = Watch()
sys.addaudithook(WATCH.hook)


@contextmanager
def guarded(folder: Path, forbidden: Path | None = None) -> Iterator[None]:
    """Raise if the block has a forbidden side effect.

    Raises:
        Broken: the block wrote a file outside the folder, read a file in the forbidden folder, started another
            program, or took more than `SECONDS` or `MEMORY`.
    """
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _forget_peak()
    grown = _peak()
    WATCH.folder, WATCH.forbidden, WATCH.seen = folder, forbidden, []
    try:
        yield
    finally:
        WATCH.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    grown = _peak() - grown
    if WATCH.seen:
        raise Broken(f"forbidden side effects: {WATCH.seen[:3]}")
    if grown > MEMORY:
        raise Broken(f"it took {grown / 2**20:.0f} MiB; the limit is {MEMORY / 2**20:.0f} MiB")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Broken(f"it took longer than {SECONDS} seconds")


def _forget_peak() -> None:
    """Reset the kernel's record of the process's peak memory."""
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")


def _peak() -> int:
    """Peak memory of the process in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
