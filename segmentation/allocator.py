"""Keeps memory that torch has freed, for its next tensors.

A training step frees and takes the same hundreds of megabytes again and again. glibc hands such blocks back to the
kernel at once, and every page of the next one is cleared anew: hundreds of thousands of page faults a step.
"""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Names of glibc's settings in `malloc.h`."""
AT_ONCE = 64 * 2**20
"""Bytes by which the heap grows."""


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, up to its own peak; tells whether it does.

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
