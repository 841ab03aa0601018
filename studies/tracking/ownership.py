"""Claim a journal's folder for one process at a time, until that process releases it or dies."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segmentation.system.processes import is_dead, is_same, me, parsed

OWNER, LOCK = "process.json", "lock"
CLAIM_SECONDS, POLL_SECONDS = 0.5, 0.02
"""Timeout and interval of a claim. `is_left` holds the lock for a moment, too."""


class ClaimedError(Exception):
    """Another process has claimed the folder."""


class Claim:
    """A folder that this process has claimed. It is created if missing."""

    def __init__(self, folder: Path) -> None:
        """Claim a folder.

        Raises:
            ClaimedError: another process has claimed it.
            OSError: it cannot be created.
        """
        self._folder, self._lock = folder, FileLock(folder / LOCK)
        while not self._lock.is_locked:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the previous owner has just removed it
                try:
                    self._lock.acquire(CLAIM_SECONDS, POLL_SECONDS)
                except Timeout as error:
                    raise ClaimedError(str(folder)) from error
        (folder / OWNER).write_text(json.dumps(me()))

    def release(self) -> None:
        """Release the folder and leave its content."""
        self._lock.release()

    def remove(self) -> None:
        """Remove the folder with its content, and release it."""
        with suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != LOCK:
                    entry.unlink()
            (self._folder / LOCK).unlink()  # last: another process can claim the folder from then on
            self._folder.rmdir()
        self._lock.release()


def owner(folder: Path) -> dict[str, Any]:
    """Return the process that claimed a folder last, in the form of `processes.me`; empty if unknown."""
    try:
        return parsed((folder / OWNER).read_text())
    except (OSError, ValueError):
        return {}


def is_left(folder: Path) -> bool:
    """Return whether no process has a folder. That of another machine counts as alive, since it cannot be seen."""
    last = owner(folder)
    if "pid" in last and is_dead(last) is not True and not is_same(last, me()):
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return True
    except OSError:  # includes a timeout
        return False
