"""Finds equal and nearly equal images: difference hashes as candidates, confirmed by small grey copies.

The difference hash (dHash) has one bit for each pair of neighbouring pixels of a 9 x 8 grey copy: whether the left one
is brighter. It hardly changes when an image is resized, compressed or made brighter. Krawetz, "Kind of Like That",
2013, https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16
"""Width and height of the grey copy that confirms a candidate."""
MAX_DISTANCE = 10
"""Most of the 64 bits of two hashes that may differ. Of 200 photos saved anew at half size or quality 20, none differs
in more than 6."""
MIN_CORRELATION = 0.95
"""Least correlation of the grey copies. Different photos of the same kind of scene stay below 0.9."""
BLOCK = 2**21
"""Entries of the tables of distances and correlations that are computed at a time."""


class Prints(NamedTuple):
    """Hashes and grey copies of `N` images."""

    hashes: np.ndarray
    """`(N,)` uint64."""
    copies: np.ndarray
    """`(N, SIDE * SIDE)` float32, each with mean 0 and length 1, or all 0 for an image of one grey value."""

    @classmethod
    def of(cls, hashes: Sequence[int], copies: Sequence[bytes]) -> "Prints":
        """Return the prints of images with the given results of `difference_hash` and `grey_copy`."""
        values = np.frombuffer(b"".join(copies), np.uint8).reshape(-1, SIDE * SIDE).astype(np.float32)
        values -= values.mean(axis=1, keepdims=True)
        length = np.sqrt((values**2).sum(axis=1, keepdims=True))
        return cls(np.array(hashes, np.uint64), np.divide(values, length, where=length > 0, out=values))


def difference_hash(grey: Image.Image) -> int:
    """Return the 64-bit difference hash of a grey image, row by row, the first bit highest."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(pixels[:, :-1] > pixels[:, 1:]).tobytes(), "big")


def grey_copy(grey: Image.Image) -> bytes:
    """Return a grey image reduced to `SIDE` x `SIDE` pixels."""
    return grey.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def nearest(images: Prints, others: Prints | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image the most similar one that is nearly equal to it.

    Args:
        images: `N` images.
        others: `M` images to search in. None searches among the images before each one in `images`.

    Returns:
        `(N,)` int64 index of the most similar image, -1 where none is nearly equal, and `(N,)` their correlation.
    """
    among = images if others is None else others
    found, best = np.full(len(images.hashes), -1), np.zeros(len(images.hashes), np.float32)
    rows = max(1, BLOCK // max(1, len(among.hashes)))
    for start in range(0, len(images.hashes) if len(among.hashes) else 0, rows):
        part = slice(start, start + rows)
        alike = images.copies[part] @ among.copies.T
        alike[np.bitwise_count(images.hashes[part, None] ^ among.hashes) > MAX_DISTANCE] = 0
        if others is None:
            alike[np.arange(len(among.hashes)) >= np.arange(start, start + len(alike))[:, None]] = 0
        index = alike.argmax(axis=1)
        best[part] = alike[np.arange(len(index)), index]
        found[part] = np.where(best[part] >= MIN_CORRELATION, index, -1)
    return found, best
