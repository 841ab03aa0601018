"""Settings of the C library and of OpenMP that suit a process which trains, scores and predicts."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from segmentation.errors import InputError

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Names of glibc's settings in `malloc.h`."""
AT_ONCE = 64 * 2**20
"""Bytes by which the heap grows."""
TURNS = "10000"
"""How often a thread of OpenMP looks for its next loop before it sleeps: for a tenth of a millisecond or so, which is
longer than it takes from loop to loop within a step. With a tenth of that, threads sleep and wake all the time."""


def check_system(platform: str = sys.platform) -> None:
    """Raise an `InputError` on a system that this program is not made for; `platform` is as of `sys.platform`."""
    if platform in ("win32", "cygwin", "msys"):
        raise InputError(
            "this program runs on Linux and macOS, not on Windows itself: start it in WSL 2, Windows' own Linux "
            "(`wsl --install`), where it finds the GPU, too"
        )


def prepare_process() -> None:
    """What a command does before it loads torch."""
    keep_freed_memory()
    wait_briefly()


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, up to its own peak; tells whether it does.

    A training step frees and takes the same hundreds of megabytes again and again. glibc hands such blocks back to the
    kernel at once, and every page of the next one is cleared anew: hundreds of thousands of page faults a step.

    Where there is another C library, such as on macOS and Windows, nothing happens; with another allocator preloaded,
    that one goes on as it does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, AT_ONCE)))


def wait_briefly() -> None:
    """Let the threads of GNU's OpenMP, torch's on Linux, leave their cores soon after a parallel loop.

    By themselves they look for the next one for milliseconds, on cores that the threads which read, score and write
    could have. It is for this process and those that it starts, unless the user has said otherwise; for this one it
    must be said before torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", TURNS)


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without looking for garbage meanwhile.

    They make half a million objects, all of which stay. To look through them again and again while they are made, and
    once more when the program ends, took a fifth of the time until the first training step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
