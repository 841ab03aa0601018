"""A prepared split: images and masks as arrays that are mapped from the cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from segmentation.classes import Classes
from segmentation.data.ragged import Ragged
from segmentation.data.source import split_title
from segmentation.errors import InputError
from segmentation.io.channels import bits_of

if TYPE_CHECKING:  # mistakes in data are found before torch is imported, which takes seconds
    import torch


BLOCK = 2**16
"""Pixels that are summed at a time: so few fit into a core's cache, and float64 sums their squares exactly."""


@dataclass(frozen=True)
class Split:
    """One prepared split of a data set with `N` images of `H` x `W` pixels; whole images may differ in size."""

    dataset: str
    name: str
    location: str
    labels: Classes
    names: tuple[str, ...]
    images: np.ndarray | Ragged
    """`(N, H, W, C)` uint8 or uint16, with `C` channels."""
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

    @property
    def title(self) -> str:
        """Name of the data set and of the split, such as `voc2007/val`; a user's own data have that of their folder."""
        return split_title(self.dataset, self.location, self.name)

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

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(_values(self.images).shape[-1])

    @property
    def bits(self) -> int:
        """Bits per channel of the images, 8 or 16."""
        return bits_of(_values(self.images))

    @cached_property
    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over all pixels of the split.

        Sums of `BLOCK` pixels are whole numbers that float64 holds exactly; Python's integers add them up. A channel of
        a single value has standard deviation 1, so that it can be divided by.
        """
        count, sums, squares = 0, [0] * self.channels, [0] * self.channels
        for image in self.images:
            pixels = image.reshape(-1, self.channels)
            for start in range(0, len(pixels), BLOCK):
                values = pixels[start : start + BLOCK].T.astype(np.float64, order="C")  # rows are summed fastest
                count += values.shape[1]
                sums = [total + int(part) for total, part in zip(sums, values.sum(1), strict=True)]
                parts = np.einsum("ij,ij->i", values, values)
                squares = [total + int(part) for total, part in zip(squares, parts, strict=True)]
        variances = [Fraction(count * square - total**2, count**2) for total, square in zip(sums, squares, strict=True)]
        return [total / count for total in sums], [math.sqrt(variance) or 1.0 for variance in variances]

    def gather(self, indices: np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return images `(B, C, H, W)`, channels last in memory, and masks `(B, H, W)` uint8.

        Raises:
            ValueError: the images differ in size.
        """
        import torch

        images, masks = (
            part.stacked(indices) if isinstance(part, Ragged) else part[indices] for part in (self.images, self.masks)
        )
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def _values(images: np.ndarray | Ragged) -> np.ndarray:
    """Return the array that holds the images."""
    return images.flat if isinstance(images, Ragged) else images


def check_same_bits(splits: Sequence[Split]) -> None:
    """Raise an `InputError` unless the images of all splits have the same bits."""
    if len({split.bits for split in splits}) > 1:
        bits = ", ".join(f"{split.bits} bits in {split.name} (such as {split.names[0]})" for split in splits)
        raise InputError(f"the images in {splits[0].location} have {bits}: convert them all to the same bits")


def histogram(mask: np.ndarray) -> list[int]:
    """Return the number of pixels for each of the 256 values of a mask.

    Uses Pillow, because `np.bincount` would copy the mask to 8 bytes per pixel.
    """
    return Image.fromarray(mask).histogram()
