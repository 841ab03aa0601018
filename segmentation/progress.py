"""Progress bars for people; silent where nobody watches."""

import sys
from typing import Never

from tqdm import tqdm


def progress(description: str, images: int) -> "tqdm[Never]":
    """A bar that counts images, with images a second and the time left; shown on a terminal only.

    Call `update(n)` on it, and use it in a `with`.
    """
    return tqdm(total=images, desc=description, unit=" images", file=sys.stderr, disable=None, leave=False)
