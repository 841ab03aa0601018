"""Settings of glibc, OpenMP and the garbage collector for fast training, scoring and prediction."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from segmentation.errors import InputError

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt`, from `malloc.h`."""
AT_ONCE = 64 * 2**20
"""Bytes by which the heap grows at a time."""
SPIN_COUNT = "10000"
"""How often an OpenMP thread checks for its next loop before it sleeps.

This takes about 0.1 ms, longer than the time between two loops of a training step. With 1,000 checks, threads sleep and
wake within every step.
"""


def check_system(platform: str = sys.platform) -> None:
    """Raise an `InputError` on an unsupported system; `platform` is a value of `sys.platform`."""
    if platform in ("win32", "cygwin", "msys"):
        raise InputError(
            "this program runs on Linux and macOS, not on Windows: start it in WSL 2 (`wsl --install`), where it can "
            "use the GPU"
        )


def prepare_process() -> None:
    """Apply the settings of glibc, OpenMP and the garbage collector; call this before torch is imported."""
    keep_freed_memory()
    wait_briefly()
    end_without_collection()


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for this process instead of returning it to the kernel; returns whether it does.

    Every training step frees and allocates the same hundreds of megabytes. By default, glibc returns such blocks to the
    kernel, which clears every page of the next block: hundreds of thousands of page faults per step.

    Other C libraries, as on macOS, and preloaded allocators are not changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # here and not above: `--help` does not need it

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, AT_ONCE)))


def wait_briefly() -> None:
    """Make the threads of GNU OpenMP, which torch uses on Linux, sleep soon after a parallel loop.

    By default they spin for milliseconds on cores that other threads of this process could use. The setting is an
    environment variable: it has to be set before torch is imported, child processes inherit it, and a value that the
    user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def end_without_collection() -> None:
    """Leave all objects to the system when the process ends, after the exit handlers of the libraries.

    The interpreter would search the objects of all imported libraries for garbage twice, which takes a second or two.
    """
    atexit.register(gc.freeze)


@contextmanager
def importing() -> Iterator[None]:
    """Inside the `with`, import large libraries without garbage collection.

    The imports create half a million objects that all remain. Scanning them during the imports, and once more at exit,
    took a fifth of the time until the first training step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
