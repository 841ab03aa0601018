"""Class names and colours of a data set, and the mask value that means "no class"."""

import posixpath
from dataclasses import dataclass

import numpy as np

from segmentation.errors import InputError
from segmentation.io.names import is_plain

VOID = 255
"""Mask value of pixels without a class. They are neither trained on nor scored."""

MAX_NAME_LENGTH = 100
"""Letters in a class name, which is part of metric names, table rows and legends."""


def voc_palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """Return the RGB colours of the Pascal VOC development kit: bits of the index alternate between R, G and B."""
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
    """The classes of a data set. The index of a class is its position in `names`."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= VOID:
            raise InputError(f"a data set needs 2 to {VOID} classes; this one has {len(self.names)}")
        for name in self.names:
            if not is_plain(name) or name.strip() != name or posixpath.normpath(f"/{name}") != f"/{name}":
                raise InputError(
                    f"class name {name!r:.80} cannot be used in metric names: remove control characters, spaces at its "
                    f"ends, and path parts such as `//` and `..`"
                )
            if len(name) > MAX_NAME_LENGTH:
                raise InputError(f"class name {name!r:.80} is too long: at most {MAX_NAME_LENGTH} letters are possible")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise InputError(f"class names must be unique; repeated: {', '.join(repeated)}")
        assert len(self.palette) == len(self.names)

    @classmethod
    def named(cls, *names: str) -> "Classes":
        """Create classes with the given names and the colours of Pascal VOC."""
        return cls(names, voc_palette(len(names)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """Index of the class named `background`, or None."""
        return self.names.index("background") if "background" in self.names else None

    def colours(self, mask: np.ndarray) -> np.ndarray:
        """Return class indices `(H, W)` as uint8 RGB colours `(H, W, 3)`; void is light grey."""
        table = np.full((256, 3), 224, np.uint8)
        table[: len(self)] = self.palette
        return table[mask]

    def in_plots(self, mask: np.ndarray) -> np.ndarray:
        """Return class indices `(H, W)` as colours of plots on white paper, uint8 RGB `(H, W, 3)`.

        They are those of `colours`, but a black `background` is nearly white, since dark classes are hardly seen on
        black, and void is grey.
        """
        table = self.colours(np.arange(256))
        table[len(self) :] = 176
        if self.background is not None and not any(self.palette[self.background]):
            table[self.background] = 242
        return table[mask]
