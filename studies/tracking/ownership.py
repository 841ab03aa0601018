"""Which process has a journal: one at a time, until it lets go or dies."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segmentation.system.processes import is_dead, is_same, me, parsed

OWNER, LOCK = "process.json", "lock"
CLAIM_SECONDS, POLL_SECONDS = 0.5, 0.02
"""How long to ask for a folder: who only looks whether it is left holds it for a moment, too."""


class ClaimedError(Exception):
    """Another process has the folder."""


class Claim:
    """A folder that this process has, made if it is not there."""

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            ClaimedError: another process has it.
            OSError: it cannot be made.
        """
        self._folder, self._lock = folder, FileLock(folder / LOCK)
        while not self._lock.is_locked:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # who had it has just removed it
                try:
                    self._lock.acquire(CLAIM_SECONDS, POLL_SECONDS)
                except Timeout as error:
                    raise ClaimedError(str(folder)) from error
        (folder / OWNER).write_text(json.dumps(me()))

    def let_go(self) -> None:
        """Leave the folder, as it is, to whoever asks."""
        self._lock.release()

    def remove(self) -> None:
        """Remove the folder with all that is in it, and let go."""
        with suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != LOCK:
                    entry.unlink()
            (self._folder / LOCK).unlink()  # the last, since somebody else may have the folder from then on
            self._folder.rmdir()
        self._lock.release()


def owner(folder: Path) -> dict[str, Any]:
    """The process that has a folder, or had it last, as `processes.me` has told; empty if that is not known."""
    try:
        return parsed((folder / OWNER).read_text())
    except (OSError, ValueError):
        return {}


def is_left(folder: Path) -> bool:
    """Whether nobody has a folder; one that a process of another machine has had is not known to be left."""
    had = owner(folder)
    if "pid" in had and is_dead(had) is not True and not is_same(had, me()):
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return True
    except OSError:  # a timeout, too
        return False
