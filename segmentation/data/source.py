"""Interface of a data set: named images with masks, read one at a time."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from segmentation.classes import Classes


class LabelledImage(NamedTuple):
    """One image and its mask, before preparation."""

    image: Image.Image
    """RGB, `W` x `H` pixels."""
    mask: np.ndarray
    """Class indices `(H, W)` uint8, void 255."""
    digest: bytes
    """Hash of the content of the source files; part of the data set's fingerprint."""


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
