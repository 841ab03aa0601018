"""Interface of a data set: named images with masks, read one at a time."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.errors import InputError, listed, one_of
from segmentation.io.channels import Raster


class MissingDataError(InputError):
    """`data_dir` does not hold the data set in any layout that `dataset` reads."""


class NoValidationError(InputError):
    """There are training images, but no validation split."""


NAMELESS = ("folder", "coco", "labelme")
"""Data sets that say how files are read, not what they show."""


def data_name(dataset: str, folder: str) -> str:
    """Return the name of a data set; that of a user's own data is the name of its folder."""
    return (Path(folder).resolve().name or dataset) if dataset in NAMELESS and folder else dataset


def split_title(dataset: str, folder: str, split: str) -> str:
    """Return the name of a data set and of its split, such as `voc2007/val`."""
    return f"{data_name(dataset, folder)}/{split}"


HELD_OUT = "held_out"
"""Name of the split of held-out images."""
VALIDATION = ("val", "valid", "validation")
"""Names that tools give to the validation split; `val` stands for any of them."""


def known_split(config: DataConfig, split: str, known: Collection[str]) -> str:
    """Return the name under which the data hold a split.

    Raises:
        InputError: there is no such split.
        NoValidationError: the validation split is missing; the message says how to do without it.
    """
    if split not in known and split in VALIDATION:
        split = next((name for name in VALIDATION if name in known), split)
    if split in known:
        return split
    if split != config.val_split or config.train_split not in known:
        made = [config.val_split] if config.val_fraction or config.folds else []
        made += [HELD_OUT] if config.calibration_fraction else []
        return one_of("split", split, [*known, *(each for each in made if each != split)])
    others = sorted(name for name in known if name != config.train_split)
    hint = "To hold out a part of the training images, set val_fraction=0.2"
    if others:
        hint = f"To validate on {listed(others)}, set val_split={others[0]}. {hint} instead"
    raise NoValidationError(f"{config.data_dir} has no split {split!r} (val_split), only {', '.join(known)}. {hint}")


class LabelledImage(NamedTuple):
    """One image and its mask, before preparation."""

    image: Raster
    """`W` x `H` pixels; a `PIL.Image` is RGB."""
    mask: np.ndarray
    """Class indices `(H, W)` uint8, void 255."""
    digest: bytes
    """Hash of the content of the source files; part of the data set's fingerprint."""
    image_digest: bytes = b""
    """Hash of the content of the image file alone; empty if there is no file."""


class Source(Protocol):
    """One split of a data set, before any preparation."""

    @property
    def labels(self) -> Classes: ...

    @property
    def location(self) -> str:
        """Folder of the data, or the description of a generator."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Name of each image, in order. Must be computed once, because every access to an image uses it."""
        ...

    def identity(self) -> str:
        """Return a text that changes when the source files change; compares sizes and times, not content."""
        ...

    def pixels(self, index: int) -> int:
        """Return width times height of one image without decoding it; 0 if unknown."""
        ...

    def read(self, index: int) -> LabelledImage:
        """Return one image and its mask.

        Raises:
            InputError: the files are wrong; the message names the file.
        """
        ...
