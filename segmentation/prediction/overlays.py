"""Overlay of an image: its pixels, half covered with the colours of the predicted classes."""

import math

import numpy as np
from PIL import Image

from segmentation.classes import Classes
from segmentation.io.channels import Raster, as_array, displayed
from segmentation.io.pixels import RGB

MAX_PIXELS = 2**24
"""Overlays of larger images that are predicted in windows are reduced by a whole number."""
MAX_SIDE = 65_500
"""Longest side of a JPEG in pixels, and so of an overlay."""


def reduction(width: int, height: int) -> int:
    """Return the whole number by which the overlay of an image that is predicted in windows is smaller."""
    return max(1, math.ceil(math.sqrt(width * height / MAX_PIXELS)), math.ceil(max(width, height) / MAX_SIDE))


class Overlay:
    """Collects the rows of an image and its classes, reduced, and blends them when all are there.

    The brightness of an image of 16 bits is stretched for display by its percentiles, so it needs all rows.
    """

    def __init__(self, size: tuple[int, int], reduce: int, classes: Classes) -> None:
        """Take rows of an image.

        Args:
            size: width and height of the image in pixels.
            reduce: the overlay is smaller by this whole number.
            classes: their palette colours all pixels but those of `background`.
        """
        self._width, self._height = size
        self._reduce = reduce
        self._classes = classes
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._bands: list[tuple[np.ndarray, np.ndarray]] = []
        self._added = 0

    def add(self, image: Raster, labels: np.ndarray) -> None:
        """Add the next rows.

        Args:
            image: these rows of the image.
            labels: `(rows, W)` uint8, class indices and 255 for void.
        """
        self._added += len(labels)
        values = np.ascontiguousarray(as_array(image)[..., :RGB])  # a view would keep all channels in memory
        if self._reduce == 1:
            self._bands.append((values, labels))
            return
        # whole groups of rows; the rest waits for the next ones
        self._waiting.append((values, labels))
        if self._added < self._height and sum(len(each) for _, each in self._waiting) < self._reduce:
            return
        pixels, indices = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        complete = len(pixels) if self._added == self._height else len(pixels) // self._reduce * self._reduce
        self._waiting = [(pixels[complete:], indices[complete:])]
        self._bands.append(self._reduced(pixels[:complete], indices[:complete]))

    def image(self) -> Image.Image:
        """Return the overlay. All rows must have been added."""
        pixels, labels = (
            each[0] if len(each) == 1 else np.concatenate(each) for each in zip(*self._bands, strict=True)
        )
        image, mask = Image.fromarray(displayed(pixels)), Image.fromarray(labels)
        mask.putpalette(self._classes.colours(np.arange(256)).tobytes())
        overlay = Image.blend(image, mask.convert("RGB"), 0.5)
        if self._classes.background is not None:
            overlay.paste(image, mask=Image.fromarray(labels == self._classes.background))
        return overlay

    def _reduced(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by = self._reduce
        means = [Image.fromarray(_of_pillow(pixels[..., each])).reduce(by) for each in range(pixels.shape[2])]
        small = np.rint(np.stack([np.asarray(each) for each in means], -1)).astype(pixels.dtype)
        at = [
            np.minimum(np.arange(length) * by + by // 2, most - 1)
            for length, most in zip(small.shape[:2], labels.shape, strict=True)
        ]
        return small, labels[np.ix_(*at)]


def _of_pillow(channel: np.ndarray) -> np.ndarray:
    """Return a channel in a type that Pillow reduces."""
    return np.ascontiguousarray(channel, np.uint8 if channel.dtype == np.uint8 else np.float32)
