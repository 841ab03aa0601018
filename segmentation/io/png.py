"""Writes 8-bit PNG files row by row, so that no image is in memory as a whole.

ISA-L's compression (the package isal) is several times as fast as zlib's. Every row is stored as its difference from
the row above (filter 2, "Up", of the PNG specification): masks and confidence maps change little from row to row.
"""

import struct
import zlib
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from segmentation.io.channels import PNG_SIGNATURE

LEVEL = 1
"""ISA-L's level of compression, 0 to 3: higher levels are slower and save little."""
UP = 2
"""Number of the filter that subtracts the row above."""
GREY, PALETTE = 0, 3
"""Colour types."""
CHUNK = 2**30
"""Most bytes of a chunk; the format allows twice as many."""


class PngRows:
    """A greyscale or palette PNG that is written from top to bottom."""

    def __init__(self, file: BinaryIO, width: int, height: int, palette: bytes | None = None) -> None:
        """Write the header.

        Args:
            file: is written to, and not closed.
            width: number of columns.
            height: number of rows that will be written.
            palette: red, green and blue of every value; None writes a greyscale image.
        """
        self._file, self._left = file, height
        self._compressor = isal_zlib.compressobj(LEVEL)
        self._above = np.zeros(width, np.uint8)
        file.write(PNG_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, GREY if palette is None else PALETTE, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", palette)

    def write(self, rows: np.ndarray) -> None:
        """Write the next rows, `(n, width)` uint8; the last ones complete the file."""
        count, width = rows.shape
        filtered = np.empty((count, width + 1), np.uint8)
        filtered[:, 0] = UP
        np.subtract(rows[0], self._above, out=filtered[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        self._above = rows[-1].copy()
        self._left -= count
        content = self._compressor.compress(filtered)
        if not self._left:
            content += self._compressor.flush()
        for start in range(0, len(content), CHUNK):
            self._chunk(b"IDAT", content[start : start + CHUNK])
        if not self._left:
            self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes) -> None:
        self._file.write(struct.pack(">I", len(content)) + kind + content)
        self._file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
