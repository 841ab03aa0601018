"""Training images that are kept from training, to calibrate on later."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segmentation.classes import Classes
from segmentation.data.source import LabelledImage, Source
from segmentation.errors import InputError

HELD_OUT = "held_out"
"""The name of their split."""


@dataclass(frozen=True)
class Part:
    """Some pictures of a `Source`."""

    whole: Source
    places: tuple[int, ...]

    @property
    def labels(self) -> Classes:
        return self.whole.labels

    @property
    def location(self) -> str:
        return self.whole.location

    @cached_property
    def names(self) -> tuple[str, ...]:
        names = self.whole.names
        return tuple(names[place] for place in self.places)

    def identity(self) -> str:
        return f"{self.places} of {self.whole.identity()}"

    def pixels(self, index: int) -> int:
        return self.whole.pixels(self.places[index])

    def read(self, index: int) -> LabelledImage:
        return self.whole.read(self.places[index])


def held_out(source: Source, fraction: float, chosen: bool) -> Part:
    """The pictures that are held out, if `chosen`, or all others, in their own order.

    Which they are depends on the number of pictures and the fraction alone, so that runs with other seeds are trained
    and calibrated on the same pictures.

    Raises:
        InputError: none would be held out, or all.
    """
    total = len(source.names)
    count = round(fraction * total)
    if not 0 < count < total:
        raise InputError(
            f"calibration_fraction={fraction} holds out {count} of {total} training images; it must leave at least one "
            f"on either side"
        )
    order = np.random.default_rng(0).permutation(total)
    return Part(source, tuple(sorted(order[:count].tolist() if chosen else order[count:].tolist())))
