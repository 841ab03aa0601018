"""Progress bars on terminals."""

import sys
from threading import RLock
from typing import Never

from tqdm import tqdm

tqdm.set_lock(RLock())  # the default lock is for several processes and warns when one of them is killed


def progress(description: str, images: int) -> "tqdm[Never]":
    """A progress bar that counts images, for use in a `with`; it is shown only if stderr is a terminal."""
    return tqdm(total=images, desc=description, unit=" images", file=sys.stderr, disable=None, leave=False)
