"""Inspects all images of a split, and adds up what they hold."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data import HELD_OUT, open_split
from segmentation.data.in_parallel import each_image
from segmentation.data.preparation import takes_whole_images
from segmentation.data.source import NoValidationError, Source, split_title
from segmentation.errors import InputError
from segmentation.inspection.image import InspectedImage, inspect_image
from segmentation.system.progress import progress

OTHER_SPLITS = ("test",)
"""Splits that are inspected besides those of training and validation, where a data set has them."""


@dataclass(frozen=True)
class InspectedSplit:
    """One split, or the reason why it cannot be opened."""

    name: str
    faults: tuple[str, ...] = ()
    """What is wrong with the split as a whole."""
    source: Source | None = None
    """None if the split cannot be opened."""
    images: Sequence[InspectedImage] = ()
    is_absent: bool = False
    """Whether the data set has no split of this name, so that `val_fraction` can make one."""

    @property
    def labels(self) -> Classes | None:
        return None if self.source is None else self.source.labels

    @cached_property
    def sound(self) -> list[InspectedImage]:
        """The images whose image and mask can be read."""
        return [image for image in self.images if image.total]

    @cached_property
    def pixels(self) -> np.ndarray:
        """`(3, 256)` int64: pixels of each mask value at the masks' own size, after `resize`, and after `crop`."""
        found = np.zeros((3, 256), np.int64)
        for image in self.sound:
            found[:, image.values] += image.pixels
        return found

    @cached_property
    def holding(self) -> np.ndarray:
        """`(3, 256)` int64: images that hold each mask value, at the same three stages."""
        found = np.zeros((3, 256), np.int64)
        for image in self.sound:
            found[:, image.values] += image.pixels > 0
        return found

    @cached_property
    def kept(self) -> np.ndarray:
        """`(256,)`: fraction of each mask value's area that lies inside the crop; NaN for a value without pixels.

        Every image counts with its own area, as in `Split.in_crop`: a pixel after `resize` stands for as many original
        pixels as the image was reduced by.
        """
        area, inside = np.zeros(256), np.zeros(256)
        for image in self.sound:
            values, pixels = image.values, image.pixels
            scale = image.total / max(1, pixels[1].sum())
            area[values] += pixels[1] * scale
            inside[values] += pixels[2] * scale
        with np.errstate(invalid="ignore"):
            return inside / area

    def fraction_kept(self) -> float:
        """Return the fraction of all pixels that lies inside the crop; NaN without images."""
        total = sum(image.total for image in self.sound)
        inside = sum(image.total * image.pixels[2].sum() / max(1, image.pixels[1].sum()) for image in self.sound)
        return inside / total if total else float("nan")

    def void(self) -> float:
        """Return the fraction of void pixels; NaN without images."""
        total = self.pixels[0].sum()
        return float(self.pixels[0, VOID] / total) if total else float("nan")

    def sizes(self) -> Counter[tuple[int, int]]:
        """Return the number of images of each width and height."""
        return Counter(image.size for image in self.images if image.size is not None)


def inspect_splits(config: DataConfig, splits: Iterable[str] | None = None) -> list[InspectedSplit]:
    """Return the inspected splits, with a progress bar.

    Args:
        config: the data set and its preparation.
        splits: their names. None is the training and the validation split, what `calibration_fraction` holds out, and
            `test` if the data set has it.

    Raises:
        InputError: no split can be opened; the message is that of the first one.
    """
    names = tuple(splits) if splits is not None else tuple(dict.fromkeys((config.train_split, config.val_split)))
    if splits is None and config.calibration_fraction:
        names += (HELD_OUT,)
    opened = [_opened(config, name) for name in names]
    if splits is None:
        others = (_opened(config, name) for name in OTHER_SPLITS if name not in names)
        opened += [each for each in others if each.source is not None]
    if all(each.source is None for each in opened):
        raise InputError(opened[0].faults[0])
    return [_inspected(each, config) for each in opened]


def _opened(config: DataConfig, name: str) -> InspectedSplit:
    try:
        source = open_split(config, name, with_faults=True)
    except InputError as error:
        return InspectedSplit(name, (str(error),), is_absent=isinstance(error, NoValidationError))
    return InspectedSplit(name, _faults(source), source)


def _faults(source: Any) -> tuple[str, ...]:
    """Return what is wrong with the files of a split as a whole, such as missing masks."""
    while hasattr(source, "whole"):
        source = source.whole
    return tuple(getattr(source, "faults", ()))


def _inspected(split: InspectedSplit, config: DataConfig) -> InspectedSplit:
    source = split.source
    if source is None:
        return split
    images = []
    with progress(f"inspecting {split_title(config.dataset, config.data_dir, split.name)}", len(source.names)) as bar:
        whole = takes_whole_images(config, split.name)
        for image in each_image(source, lambda index: inspect_image(source, index, config, whole)):
            assert isinstance(image, InspectedImage)  # what is wrong with an image is among its faults
            images.append(image)
            bar.update(1)
    return InspectedSplit(split.name, split.faults, source, images)
