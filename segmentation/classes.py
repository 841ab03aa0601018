"""Class names, their colours, and the one value that means "no class"."""

import posixpath
from dataclasses import dataclass

import numpy as np

from segmentation.errors import InputError
from segmentation.io.names import is_plain

VOID = 255
"""Mask value of a pixel that belongs to no class: never trained on, never scored."""

LONGEST_NAME = 100
"""Letters of a class's name, which goes into names of metrics, rows and legends."""


def voc_palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours of the Pascal VOC development kit: the bits of the index, dealt out to R, G and B in turn."""
    palette = []
    for index in range(classes):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        palette.append((rgb[0], rgb[1], rgb[2]))
    return tuple(palette)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set; a class's index is its place in `names`."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= VOID:
            raise InputError(f"a data set needs 2 to {VOID} classes, this one has {len(self.names)}")
        for name in self.names:
            if not is_plain(name) or name.strip() != name or posixpath.normpath(f"/{name}") != f"/{name}":
                raise InputError(f"{name!r:.80} cannot be the name of a class: metrics and columns are called after it")
            if len(name) > LONGEST_NAME:
                raise InputError(f"class name {name!r:.80} is too long: it may have {LONGEST_NAME} letters")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InputError(f"class names must differ; given twice: {', '.join(twice)}")
        assert len(self.palette) == len(self.names)

    @classmethod
    def named(cls, *names: str) -> "Classes":
        """Classes with the given names, in the colours of Pascal VOC."""
        return cls(names, voc_palette(len(names)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """Index of the class called `background`, if there is one."""
        return self.names.index("background") if "background" in self.names else None

    def colours(self, mask: np.ndarray) -> np.ndarray:
        """Paint class indices `(H, W)` as uint8 RGB `(H, W, 3)`; void is light grey."""
        table = np.full((256, 3), 224, np.uint8)
        table[: len(self)] = self.palette
        return table[mask]
