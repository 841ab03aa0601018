"""A prepared split: images and masks as arrays that are mapped from the cache."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from segmentation.classes import Classes
from segmentation.data.ragged import Ragged

if TYPE_CHECKING:  # mistakes in data are found before torch is imported, which takes seconds
    import torch


@dataclass(frozen=True)
class Split:
    """One prepared split of a data set with `N` images of `H` x `W` pixels; whole images may differ in size."""

    dataset: str
    name: str
    location: str
    labels: Classes
    names: tuple[str, ...]
    images: np.ndarray | Ragged
    """`(N, H, W, 3)` uint8."""
    masks: np.ndarray | Ragged
    """`(N, H, W)` uint8 class indices, void 255."""
    fingerprint: str
    """Hash of the content of all source files, in hexadecimal. Equal on every machine."""
    digests: tuple[str, ...]
    """Hash of the content of each image's source files, in hexadecimal."""
    counts: tuple[int, ...] | None = None
    """Number of pixels for each of the 256 mask values; None if unknown."""
    in_crop: float = 1.0
    """Fraction of the original images' pixels that lies inside the crop."""
    image_digests: tuple[str, ...] = ()
    """Hash of each image's file alone, without its mask, in hexadecimal."""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Height and width of each image, `(N, 2)`."""
        if isinstance(self.masks, Ragged):
            return self.masks.sizes
        return np.broadcast_to(np.array(self.masks.shape[1:]), (len(self), 2))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images; None if they differ."""
        height, width = self.sizes[0].tolist()
        return (height, width) if (self.sizes == (height, width)).all() else None

    def pixels_by_value(self) -> tuple[int, ...]:
        """Return the number of pixels for each of the 256 mask values; reads all masks only if `counts` is None."""
        if self.counts is not None:
            return self.counts
        return tuple(int(count) for count in sum((np.array(histogram(mask)) for mask in self.masks), np.zeros(256)))

    def gather(self, indices: np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return images `(B, 3, H, W)` uint8, channels last in memory, and masks `(B, H, W)` uint8.

        Raises:
            ValueError: the images differ in size.
        """
        import torch

        images, masks = (
            part.stacked(indices) if isinstance(part, Ragged) else part[indices] for part in (self.images, self.masks)
        )
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def histogram(mask: np.ndarray) -> list[int]:
    """Return the number of pixels for each of the 256 values of a mask.

    Uses Pillow, because `np.bincount` would copy the mask to 8 bytes per pixel.
    """
    return Image.fromarray(mask).histogram()
