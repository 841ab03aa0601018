"""What a data set is to the rest of the program: named pictures with masks, readable one at a time."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from segmentation.classes import Classes


class LabelledImage(NamedTuple):
    """One labelled image as it was found."""

    image: Image.Image
    """RGB, `W` x `H` pixels."""
    mask: np.ndarray
    """Class indices `(H, W)` uint8, void 255."""
    digest: bytes
    """Hash of what it was made from, for the data set's fingerprint."""


class Source(Protocol):
    """One split of a data set, before any preparation."""

    @property
    def labels(self) -> Classes: ...

    @property
    def location(self) -> str:
        """Where it comes from: a folder, or the name of a generator."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One name for each picture, in the order they are read; made once, since it is asked for at each picture."""
        ...

    def identity(self) -> str:
        """A text that changes when the files do; cheap, so it looks at sizes and times, not at contents."""
        ...

    def pixels(self, index: int) -> int:
        """Width times height of one picture, without decoding it; 0 if that is not known."""
        ...

    def read(self, index: int) -> LabelledImage:
        """Decode and check one picture; an `InputError` names the file."""
        ...
