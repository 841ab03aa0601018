"""A lock file that one process holds at a time, among those that share a folder, perhaps on several machines.

The kernel keeps the lock, so it is free again as soon as its owner ends, however that happens; no clock is compared.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.2


@contextmanager
def alone(file: Path, doing: str) -> Iterator[None]:
    """Wait for the lock, and hold it inside the `with`.

    Args:
        file: the lock, in a folder that exists; removed afterwards.
        doing: what is done under it, such as `prepares camvid/train`; processes that wait print that.

    Raises:
        OSError: the file cannot be made or locked.
    """
    lock, owner = FileLock(file), file.with_name(f"{file.name}.owner")
    _acquire(lock, owner, doing)
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        for each in (owner, file):  # while it is held; a process that waits for a removed file opens the new one
            with suppress(OSError):
                each.unlink()
        lock.release()


def _acquire(lock: FileLock, owner: Path, doing: str) -> None:
    printed = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=POLL_SECONDS, poll_interval=POLL_SECONDS / 4)
        except Timeout:
            with suppress(OSError):
                if not printed and (name := owner.read_text()):
                    print(f"Waiting for {name}, which {doing}.", flush=True)
                    printed = True
