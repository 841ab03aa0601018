"""Functions compiled by numba at their first call, and threads to run them on all cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import config, njit
from numba.misc.appdirs import AppDirs

# numba's user-wide folder: by default it would write the machine code beside the source
config.CACHE_DIR = config.CACHE_DIR or AppDirs("numba", appauthor=False).user_cache_dir  # type: ignore[attr-defined]


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[[], Callable[..., Any]]]:
    """Decorator that turns a function into a getter of its machine code, which is compiled at the first call.

    numba stores the code on disk for the next process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}

    def decorate(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        @lru_cache(maxsize=1)
        def machine_code() -> Callable[..., Any]:
            try:
                return njit(signature, cache=True, **options)(function)
            except RuntimeError:  # numba finds no folder to write to
                return njit(signature, **options)(function)

        return machine_code

    return decorate


def on_all_cores(work: Callable[[int], None], count: int) -> None:
    """Call `work` with 0, 1, ..., `count` - 1 on as many cores as torch uses.

    Each thread, including the calling one, gets one contiguous range, because waking a thread takes as long as counting
    thousands of pixels.
    """
    threads = torch.get_num_threads()
    bounds = np.linspace(0, count, threads + 1).astype(int).tolist()

    def work_on_range(thread: int) -> None:
        for index in range(bounds[thread], bounds[thread + 1]):
            work(index)

    others = [_pool(threads).submit(work_on_range, thread) for thread in range(1, threads)]
    work_on_range(0)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
