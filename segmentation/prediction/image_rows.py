"""Rows of an image, read from top to bottom: of an image in memory, and of one that is resized.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

import math
from typing import Protocol

import numpy as np
from PIL import Image

from segmentation.io.channels import ChannelImage, Raster

RESAMPLING = {
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
    "nearest": (Image.Resampling.NEAREST, 0.5),
}
"""Pillow's filter of each interpolation, and the pixels that it reads on either side at a scale of 1."""


BAND_PIXELS = 2**22
"""Pixels of the source that are resized at a time."""


class Rows(Protocol):
    """An image whose rows are read from top to bottom."""

    @property
    def width(self) -> int:
        """Number of columns."""

    @property
    def height(self) -> int:
        """Number of rows."""

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return the rows `top` to `bottom` as `(bottom - top, width, N)` uint8 or uint16."""


class ImageRows:
    """The rows of an image in memory."""

    def __init__(self, image: Raster) -> None:
        self.image = image

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def rows(self, top: int, bottom: int) -> np.ndarray:
        if isinstance(self.image, ChannelImage):
            return self.image.values[top:bottom]
        return np.array(self.image.crop((0, top, self.image.width, bottom)))


class ResizedRows:
    """The rows of an image resized by Pillow.

    The filter's weights are rounded otherwise than for the whole image at once: few pixels differ, by one level.
    """

    def __init__(self, source: Rows, size: tuple[int, int], interpolation: str) -> None:
        """Resize the rows of `source` to `size`, a width and height in pixels."""
        self.source = source
        self.width, self.height = size
        self.filter, self.support = RESAMPLING[interpolation]

    def rows(self, top: int, bottom: int) -> np.ndarray:
        step = max(1, BAND_PIXELS * self.height // (self.source.width * self.source.height))
        parts = [self._resized(start, min(start + step, bottom)) for start in range(top, bottom, step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _resized(self, top: int, bottom: int) -> np.ndarray:
        scale = self.source.height / self.height
        margin = math.ceil(self.support * max(scale, 1)) + 1
        first = max(0, math.floor(top * scale) - margin)
        last = min(self.source.height, math.ceil(bottom * scale) + margin)
        band = self.source.rows(first, last)
        box = (0, top * scale - first, self.source.width, min(bottom * scale - first, len(band)))
        size = self.width, bottom - top
        if band.dtype == np.uint8 and band.shape[2] == 3:
            return np.array(Image.fromarray(band).resize(size, self.filter, box))
        found = np.empty((size[1], size[0], band.shape[2]), band.dtype)
        for channel in range(band.shape[2]):  # as `channels.resized` resizes them
            values = np.ascontiguousarray(band[..., channel], None if band.dtype == np.uint8 else np.float32)
            resized = np.asarray(Image.fromarray(values).resize(size, self.filter, box))
            found[..., channel] = resized if values.dtype == np.uint8 else resized.round().clip(0, 65535)
        return found
