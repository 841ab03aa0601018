"""One process at a time, among those that share a folder, perhaps on several machines.

A lock is a file that its owner makes, writes into again and again while it works, and removes. Whoever waits reads it:
an owner on the same machine that has died is seen to be dead, and one elsewhere is taken for dead when it has written
nothing for a while. Times of other machines are never compared with ours. In rare cases, such as an owner that was
stopped for minutes, two may work at once: what is done under a lock must bear that.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segmentation.processes import is_dead, me, parsed

BEAT_SECONDS, STALE_SECONDS, POLL_SECONDS = 5.0, 60.0, 0.2


@contextmanager
def alone(file: Path, doing: str) -> Iterator[None]:
    """Wait for the lock, and hold it.

    Args:
        file: the lock, in a folder that is there.
        doing: what is done under it, such as `prepares camvid/train`; those who wait print that.

    Raises:
        OSError: the file cannot be made.
    """
    _wait_for(file, doing)
    finished = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, finished), daemon=True)
    beating.start()
    try:
        yield
    finally:
        finished.set()
        beating.join()
        if _owner(file).get("process") == me():
            file.unlink(missing_ok=True)


def _wait_for(file: Path, doing: str) -> None:
    seen, since, told = "", time.monotonic(), False
    while not _made(file):
        with suppress(FileNotFoundError):
            now = file.read_text()
            if now != seen:
                seen, since = now, time.monotonic()
            owner = parsed(now).get("process", {})
            if time.monotonic() - since > STALE_SECONDS or (owner and is_dead(owner)):
                _remove(file, seen)
                continue
            if owner and not told:
                told = True
                print(f"Waiting for process {owner['pid']} on {owner['host']}, which {doing}.", flush=True)
        time.sleep(POLL_SECONDS)


def _made(file: Path) -> bool:
    try:
        with file.open("x") as stream:
            stream.write(json.dumps({"process": me(), "beat": 0}))
    except FileExistsError:
        return False
    return True


def _beat(file: Path, finished: threading.Event) -> None:
    """Write the lock anew every few seconds, until its owner has finished or has been taken for dead."""
    beat = 0
    while not finished.wait(BEAT_SECONDS):
        beat += 1
        with suppress(OSError):
            if _owner(file).get("process") != me():
                return
            file.write_text(json.dumps({"process": me(), "beat": beat}))


def _remove(file: Path, seen: str) -> None:
    """Remove the lock of a dead owner, unless another waiting process has just done so and made its own."""
    aside = file.with_name(f"{file.name}-{os.getpid()}-{threading.get_ident()}")
    with suppress(FileNotFoundError):
        file.rename(aside)
        if aside.read_text() != seen:
            with suppress(OSError):
                aside.rename(file)
        aside.unlink(missing_ok=True)


def _owner(file: Path) -> dict[str, Any]:
    try:
        return parsed(file.read_text())
    except OSError:
        return {}
