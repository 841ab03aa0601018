"""Images of different sizes in one flat array, as the cache stores whole images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """`N` arrays `(H, W, ...)` of different height and width, one after another in a flat array."""

    flat: np.ndarray
    """`(pixels of all arrays, ...)`."""
    sizes: np.ndarray
    """Height and width of each array, `(N, 2)` int64."""

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.sizes.prod(1))

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.flat.dtype

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one array `(H, W, ...)`, without a copy."""
        height, width = self.sizes[index]
        end = self._ends[index]
        return self.flat[end - height * width : end].reshape(height, width, *self.flat.shape[1:])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def stacked(self, indices: np.ndarray) -> np.ndarray:
        """Return copies of some arrays of equal size, `(B, H, W, ...)`.

        Raises:
            ValueError: their sizes differ.
        """
        return np.stack([self[index] for index in indices])

    def cropped(self, indices: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
        """Return copies of squares of the arrays, `(B, side, side, ...)`, with the top left `corners` `(B, 2)`."""
        crops = np.empty((len(indices), side, side, *self.flat.shape[1:]), self.flat.dtype)
        for crop, index, (top, left) in zip(crops, indices, corners, strict=True):
            crop[...] = self[index][top : top + side, left : left + side]
        return crops
