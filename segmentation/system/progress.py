"""Progress in images: a bar on a terminal, elsewhere a line of text every half minute."""

import sys
import time
from contextlib import AbstractContextManager
from threading import RLock
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

LINE_SECONDS = 30
"""Seconds between two lines where stderr is no terminal; what takes less prints none."""

tqdm.set_lock(RLock())  # the default lock is for several processes and warns when one of them is killed


class Progress(Protocol):
    """What `progress` yields."""

    def update(self, n: float = 1, /) -> object:
        """Count `n` more images, or a fraction of one."""

    def write(self, s: str, /, file: Any = None) -> object:
        """Print a line above the bar, to stdout or another stream."""


def progress(description: str, images: int, shown: bool = True) -> AbstractContextManager[Progress]:
    """Show on stderr how many of `images` are done, images per second and the time left, for use in a `with`.

    Args:
        description: what is done.
        images: number of images in total.
        shown: false shows nothing, as for all ranks but one.
    """
    if shown and not sys.stderr.isatty():
        return _Lines(description, images)
    bar: AbstractContextManager[Progress] = _Bar(
        total=images, desc=description, unit=" images", file=sys.stderr, disable=not shown, leave=False
    )
    return bar


def _rounded(done: float) -> float:
    """Return a number of images with at most two decimals; floats that should be whole numbers are."""
    return round(done, 2)


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar of images, of which some may be done in part."""

    @property
    def format_dict(self) -> Any:
        found = dict(super().format_dict)
        done = _rounded(found["n"])
        return found | {"n": int(done) if float(done).is_integer() else done}


class _Lines:
    """Prints a line if the last one, or the start, is `LINE_SECONDS` ago."""

    def __init__(self, description: str, images: int) -> None:
        self.description, self.images, self.done = description, images, 0.0
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def write(self, s: str, /, file: Any = None) -> None:
        print(s, file=file)

    def update(self, n: float = 1, /) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.printed < LINE_SECONDS or self.done >= self.images:
            return
        self.printed, rate = now, self.done / (now - self.started)
        left = tqdm.format_interval((self.images - self.done) / rate)
        line = f"{self.description}: {_rounded(self.done):g} of {self.images} images, {rate:.1f} images/s, {left} left"
        print(line, file=sys.stderr, flush=True)
