"""Progress bars for people; silent where nobody watches."""

import sys
from threading import RLock
from typing import Never

from tqdm import tqdm

tqdm.set_lock(RLock())  # its own is for several processes, and complains when one of them is killed


def progress(description: str, images: int) -> "tqdm[Never]":
    """A bar that counts images, with images a second and the time left; shown on a terminal only.

    Call `update(n)` on it, and use it in a `with`.
    """
    return tqdm(total=images, desc=description, unit=" images", file=sys.stderr, disable=None, leave=False)
