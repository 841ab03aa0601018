"""What no input may bring about: files outside its folder, another program, too much memory or time."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 20
"""No input may take longer; all that are right take far less than one."""
MEMORY = 300 * 2**20
"""Bytes by which no input may make the process grow at its peak; all files that are tried are small."""

RUNS_A_PROGRAM = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Broken(BaseException):
    """Something that no input may bring about; not to be taken for an error of a decoder."""


class Watch:
    """What is watched at the moment; there is one, since an audit hook stays for the life of the process."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        """Where files may be written and read; None while nothing is watched."""
        self.forbidden: Path | None = None
        """Where nothing may even be read."""
        self.seen: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what may not happen; to raise here would only be caught by what is tested."""
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
            # what has an open folder as its last argument is below a folder that was seen when it was opened
            for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                self._written(event, path)

    def _written(self, event: str, path: Any) -> None:
        assert self.folder is not None
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - `Path` would ask the disk
            if not place.startswith((str(self.folder), "/dev/", "/proc/self/")):
                self.seen.append(f"{event} {place}")

    def _read(self, path: str | bytes) -> None:
        if self.forbidden is not None and os.path.abspath(os.fsdecode(path)).startswith(str(self.forbidden)):  # noqa: PTH100
            self.seen.append(f"read {os.fsdecode(path)}")


WATCH = Watch()
sys.addaudithook(WATCH.hook)


@contextmanager
def guarded(folder: Path, forbidden: Path | None = None) -> Iterator[None]:
    """Watch what an input brings about.

    Raises:
        Broken: a file was written outside the folder, or read from the forbidden one; another program was started; it
            took more than `SECONDS` or `MEMORY`.
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
        raise Broken(f"it did what no input may: {WATCH.seen[:3]}")
    if grown > MEMORY:
        raise Broken(f"it took {grown / 2**20:.0f} MiB; it may take {MEMORY / 2**20:.0f}")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Broken(f"it took more than {SECONDS} seconds")


def _forget_peak() -> None:
    """Let the kernel count the process's largest size from here on."""
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")


def _peak() -> int:
    """Bytes that the process had at most, in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
