"""Which process has a journal: one at a time, until it lets go or dies."""

import fcntl
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from segmentation.processes import is_dead, is_same, me

OWNER = "process.json"
"""Locked by the owner, by flock, which ends with its process; it names who that is."""
CLAIM_SECONDS, POLL_SECONDS = 0.5, 0.02
"""How long to ask for a folder: who only looks whether it is left holds it for a moment, too."""


class TakenError(Exception):
    """Another process has the folder."""


class Claim:
    """A folder that this process has, made if it is not there.

    Raises:
        TakenError: another process has it.
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        deadline = time.monotonic() + CLAIM_SECONDS
        while (file := _locked(folder)) is None:
            if time.monotonic() >= deadline:
                raise TakenError(str(folder))
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(json.dumps(me()))
        file.flush()
        self._file = file

    def let_go(self) -> None:
        """Leave the folder, as it is, to whoever asks."""
        self._file.close()

    def remove(self) -> None:
        """Remove the folder with all that is in it, and let go."""
        with suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != OWNER:
                    entry.unlink()
            (self._folder / OWNER).unlink()  # the last, since somebody else may have the folder from then on
            self._folder.rmdir()
        self._file.close()


def owner(folder: Path) -> dict[str, Any]:
    """The process that has a folder, or had it last, as `processes.me` has told; empty if that is not known."""
    try:
        return dict(json.loads((folder / OWNER).read_text()))
    except (OSError, TypeError, ValueError):
        return {}


def is_left(folder: Path) -> bool:
    """Whether nobody has a folder; one that a process of another machine has had is not known to be left."""
    had = owner(folder)
    with suppress(KeyError, TypeError):
        if had and is_dead(had) is not True and not is_same(had, me()):
            return False
    file = _locked(folder)
    if file is not None:
        file.close()
    return file is not None


def _locked(folder: Path) -> TextIO | None:
    """The owner's file of a folder, locked; None if another process has it, or has just removed it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / OWNER).open("a+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return file
    except BlockingIOError:
        pass
    except OSError:
        return file  # a file system that cannot lock
    file.close()
    return None
