"""Holds out part of the training images for calibration."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segmentation.classes import Classes
from segmentation.config import RGB, DataConfig
from segmentation.data.source import HELD_OUT, LabelledImage, Source
from segmentation.errors import InputError


@dataclass(frozen=True)
class Subset:
    """Some images of a `Source`; itself a `Source`."""

    whole: Source
    indices: tuple[int, ...]
    """Indices of the images in `whole`."""

    @property
    def labels(self) -> Classes:
        return self.whole.labels

    @property
    def location(self) -> str:
        return self.whole.location

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(getattr(self.whole, "channels", RGB))

    @cached_property
    def names(self) -> tuple[str, ...]:
        names = self.whole.names
        return tuple(names[index] for index in self.indices)

    def identity(self) -> str:
        return f"{self.indices} of {self.whole.identity()}"

    def pixels(self, index: int) -> int:
        return self.whole.pixels(self.indices[index])

    def read(self, index: int) -> LabelledImage:
        return self.whole.read(self.indices[index])


def is_part(config: DataConfig, split: str) -> bool:
    """Return whether a split consists of images of the training split, all or some."""
    divided = config.val_fraction or config.folds is not None
    return split in (config.train_split, HELD_OUT) or bool(divided and split == config.val_split)


def held_out(source: Source, fraction: float, chosen: bool) -> Subset:
    """Return the held-out images if `chosen`, otherwise all other images, in their original order.

    The choice depends only on the number of images and the fraction, so runs with different seeds are trained and
    calibrated on the same images.

    Raises:
        InputError: the fraction would hold out no image, or all images.
    """
    total = len(source.names)
    count = round(fraction * total)
    if not 0 < count < total:
        raise InputError(
            f"calibration_fraction={fraction} holds out {count} of {total} training images; at least one must be held "
            f"out and one left for training"
        )
    order = np.random.default_rng(0).permutation(total)
    return Subset(source, tuple(sorted(order[:count].tolist() if chosen else order[count:].tolist())))
