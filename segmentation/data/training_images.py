"""The images of a training epoch: which ones, in which order, and which part of each.

All random numbers are drawn for the whole batch, so that they are the same on every rank and follow from the seed.
"""

from typing import TYPE_CHECKING

import numpy as np

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.data.ragged import Ragged
from segmentation.data.split import Split, histogram

if TYPE_CHECKING:
    import torch

DRAWS = {"center": 0, "random": 2, "class": 4}
"""Random numbers that the crop of one image takes, by `crop_at`."""


class TrainingImages:
    """Draws the order and the crops of the training images.

    Args:
        config: its `sampling`, `crop_at` and `crop`.
        split: the training split; it holds whole images unless `crop_at=center`.
    """

    def __init__(self, config: TrainingConfig, split: Split) -> None:
        self.split, self.crop_at, self.side = split, config.crop_at, config.crop or 0
        self.expected = class_balanced(held_classes(split)) if config.sampling == "class_balanced" else None

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Return the indices of an epoch's images, as many as the split has.

        With `sampling=class_balanced` an image comes as often as `class_balanced` says, on average over the epochs:
        rounded down or up, by systematic sampling (Madow, "On the Theory of Systematic Sampling, II", 1949).
        """
        if self.expected is None:
            return random.permutation(len(self.split))
        total = len(self.split)
        ends = np.cumsum(self.expected)
        ends[ends == ends[-1]] = total  # without the rounding of the sum
        copies = np.diff(np.minimum(np.floor(ends + random.random()), total).astype(int), prepend=0)
        return random.permutation(np.repeat(np.arange(total), copies))

    def draw(self, images: int, random: np.random.Generator) -> np.ndarray:
        """Return random numbers in [0, 1) for the crops of a batch, one row per image."""
        return random.random((images, DRAWS[self.crop_at]))

    def gather(self, indices: np.ndarray, draws: np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return images `(B, C, H, W)` and masks `(B, H, W)`, cropped by the rows that `draw` returned."""
        import torch

        images, masks = self.split.images, self.split.masks
        if not isinstance(images, Ragged) or not isinstance(masks, Ragged):
            return self.split.gather(indices)
        corners = np.array([self.corner(masks[index], row) for index, row in zip(indices, draws, strict=True)])
        crops = images.cropped(indices, corners, self.side), masks.cropped(indices, corners, self.side)
        return torch.from_numpy(crops[0]).permute(0, 3, 1, 2), torch.from_numpy(crops[1])

    def corner(self, mask: np.ndarray, draws: np.ndarray) -> tuple[int, int]:
        """Return row and column of the top left pixel of a crop.

        - `random`: every position inside the image is equally probable.
        - `class`: a class, evenly among those in the image; then one of its pixels, evenly; then a position, evenly
          among those that hold this pixel. An image that is all void has a random crop.
        """
        held = np.flatnonzero(histogram(mask)[:VOID]) if self.crop_at == "class" else ()
        if not len(held):
            height, width = mask.shape
            ranges = (0, height - self.side), (0, width - self.side)
        else:
            chosen = held[_floor(draws[0], len(held))]
            pixels = np.flatnonzero(mask == chosen)
            pixel = divmod(int(pixels[_floor(draws[1], len(pixels))]), mask.shape[1])
            ranges = tuple(
                (max(0, at - self.side + 1), min(at, length - self.side))
                for at, length in zip(pixel, mask.shape, strict=True)
            )  # type: ignore[assignment]
        top, left = (low + _floor(draw, high - low + 1) for draw, (low, high) in zip(draws[-2:], ranges, strict=True))
        return top, left


def _floor(draw: float, choices: int) -> int:
    """Return one of `choices` whole numbers from 0, for a number in [0, 1)."""
    return min(int(draw * choices), choices - 1)


def held_classes(split: Split) -> np.ndarray:
    """Return which classes each image holds, `(N, C)` bool; reads all masks."""
    return np.array([histogram(mask)[: len(split.labels)] for mask in split.masks]) > 0


def class_balanced(held: np.ndarray) -> np.ndarray:
    """Return how often each of `N` images comes in an epoch of `N` images if all classes are drawn equally often.

    A class is drawn, evenly among those that any image holds, and then one of its images, evenly: class-aware sampling
    (Shen, Lin and Huang, "Relay Backpropagation for Effective Learning of Deep Convolutional Neural Networks", ECCV
    2016). An image without any class never comes.

    Args:
        held: which classes each image holds, `(N, C)`.
    """
    images = held.sum(0)
    shares = np.divide(held, images, out=np.zeros(held.shape), where=images > 0)
    found: np.ndarray = len(held) * shares.sum(1) / np.count_nonzero(images)
    return found
