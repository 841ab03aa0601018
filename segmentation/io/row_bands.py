"""Reads rows of an image file without decoding the whole image, where its format allows that.

A TIFF stores its pixels in strips or tiles. Each is decoded as a TIFF of its own, by the same code as any other file:
the pixels are those of the whole image. Other formats, and TIFFs that are turned, have separate planes or a single
compressed strip, are decoded whole: 4 bytes a pixel.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from segmentation.io.channels import TIFF_SIGNATURES, ChannelImage, Raster, as_array
from segmentation.io.decoding import check_size, read_image
from segmentation.io.pixels import COPY_BITS, ORIENTATION, RGB, SAMPLES, SUBFILE

WHOLE_PIXELS = 2**24
"""Images of at most as many pixels are decoded whole."""
MAX_SEGMENT_PIXELS = 2**24
"""TIFFs with larger strips or tiles are decoded whole."""
RAW_ROWS = 256
"""Rows that are read at a time from an uncompressed strip."""
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, PLANES = 256, 257, 258, 259, 262, 284
STRIP_OFFSETS, STRIP_ROWS, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
"""TIFF tags."""
BIG = 43
"""Number after the byte order in a BigTIFF."""
UNCOMPRESSED, YCBCR, CONTIGUOUS = 1, 6, 1
"""Values of COMPRESSION, PHOTOMETRIC and PLANES."""
PER_SEGMENT = (
    BITS, COMPRESSION, PHOTOMETRIC, 266, SAMPLES, PLANES, 292, 293, 317, 320, 332, 338, 339, 347, 529, 530, 531, 532,
)  # fmt: skip
"""Tags that decide how the bytes of a strip or tile become pixels; TIFF 6.0 lists them."""


class _Segment(NamedTuple):
    """A strip or a tile."""

    offset: int
    """First byte in the file."""
    size: int
    """Number of bytes."""
    rows: int
    """Number of rows that it stores."""


class WholeImage:
    """The rows of an image that is decoded as a whole."""

    def __init__(self, image: Raster) -> None:
        """Wrap an image."""
        self._image = image
        self.width, self.height = image.size

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return the rows `top` to `bottom` as `(bottom - top, width, N)` uint8 or uint16."""
        if isinstance(self._image, ChannelImage):
            return self._image.values[top:bottom]
        return np.array(self._image.crop((0, top, self.width, bottom)))


class TiffBands:
    """The rows of a TIFF, decoded where they are needed. Several threads may read them."""

    def __init__(self, file: BinaryIO, tags: Any, channels: int, bits: int | None) -> None:
        """Read rows from an open file with the given tags, for which `_is_readable` holds."""
        self._file, self._tags, self._channels, self._bits = file, tags, channels, bits
        self.width, self.height = int(tags[WIDTH]), int(tags[HEIGHT])
        self._segments, self._segment_width, self._segment_height = _segments(tags)
        self._per_row = -(-self.width // self._segment_width)
        self._lock = threading.Lock()
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        self._kept = 1

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return the rows `top` to `bottom` as `(bottom - top, width, N)` uint8 or uint16.

        Raises:
            InputError: they cannot be decoded.
        """
        high = self._segment_height
        numbers = range(top // high, -(-bottom // high))
        with self._lock:
            # views of several scales read at different rows
            self._kept = max(self._kept, 2 * len(numbers))
            bands = [self._band(number) for number in numbers]
        parts = [
            band[max(0, top - number * high) : bottom - number * high]
            for number, band in zip(numbers, bands, strict=True)
        ]
        return np.concatenate(parts)

    def _band(self, number: int) -> np.ndarray:
        """Return the rows of one row of segments, `(rows, width, N)`."""
        if number not in self._decoded:
            start = number * self._per_row
            parts = [self._decode(segment) for segment in self._segments[start : start + self._per_row]]
            band = np.concatenate(parts, 1) if len(parts) > 1 else parts[0]
            self._decoded[number] = band[: self.height - number * self._segment_height, : self.width]
        self._decoded.move_to_end(number)
        while len(self._decoded) > self._kept:
            self._decoded.popitem(last=False)
        return self._decoded[number]

    def _decode(self, segment: _Segment) -> np.ndarray:
        """Return the pixels of a strip or tile, `(rows, columns, N)`."""
        self._file.seek(segment.offset)
        content = self._file.read(segment.size)
        alone = _as_file(self._tags, content, self._segment_width, segment.rows)
        return as_array(read_image(BytesIO(alone), "it", self._channels, self._bits))


@contextmanager
def row_bands(file: Path, channels: int = RGB, bits: int | None = None) -> "Iterator[TiffBands | WholeImage]":
    """Open an image file to read its rows from top to bottom. The pixels are those of `read_image`.

    Args:
        file: the image file.
        channels: number of channels that it must have. For 3, images of 8 bits are converted to RGB.
        bits: bits per channel that it must have, 8 or 16; None allows both.

    Raises:
        InputError: the file cannot be read exactly, or is larger than `pixel_limit` allows; the message says why.
    """
    tags = _readable_tags(file)
    if tags is None or int(tags[WIDTH]) * int(tags[HEIGHT]) <= WHOLE_PIXELS:
        yield WholeImage(read_image(file, channels=channels, bits=bits))
        return
    check_size("it", int(tags[WIDTH]) * int(tags[HEIGHT]))
    with file.open("rb") as stream:
        yield TiffBands(stream, tags, channels, bits)


def _readable_tags(file: Path) -> Any:
    """Return the tags of a TIFF that can be read in bands, or None for any other file."""
    try:
        with file.open("rb") as stream:
            header = stream.read(8)
            if header[:4] not in TIFF_SIGNATURES:
                return None
            if BIG in header[2:4]:
                header += stream.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            stream.seek(tags.next)
            tags.load(stream)
            following, seen = tags.next, set[int]()
            while following and following not in seen:
                seen.add(following)
                page = TiffImagePlugin.ImageFileDirectory_v2(header)
                stream.seek(following)
                page.load(stream)
                if not int(page.get(SUBFILE, 0)) & COPY_BITS:
                    return None  # several images: refused by `read_image`
                following = page.next
            return tags if _is_readable(tags, file.stat().st_size) else None
    except Exception:  # damaged tags raise nearly any exception; `read_image` reports them
        return None


def _is_readable(tags: Any, file_size: int) -> bool:
    """Return whether a TIFF can be read in bands."""
    if tags.get(ORIENTATION, 1) != 1 or (tags.get(SAMPLES, 1) > 1 and tags.get(PLANES, CONTIGUOUS) != CONTIGUOUS):
        return False
    segments, width, height = _segments(tags)
    expected = -(-tags[WIDTH] // width) * -(-tags[HEIGHT] // height)
    fits = all(each.offset >= 0 and each.size > 0 and each.offset + each.size <= file_size for each in segments)
    return len(segments) == expected and fits and width * height <= MAX_SEGMENT_PIXELS


def _segments(tags: Any) -> tuple[list[_Segment], int, int]:
    """Return the strips or tiles of a TIFF, row by row, and their width and height."""
    width, height = int(tags[WIDTH]), int(tags[HEIGHT])
    if TILE_OFFSETS in tags:
        columns, rows = int(tags[TILE_WIDTH]), int(tags[TILE_HEIGHT])
        offsets, sizes = tags[TILE_OFFSETS], tags[TILE_BYTES]
        return [_Segment(*pair, rows) for pair in zip(offsets, sizes, strict=True)], columns, rows
    rows = min(int(tags.get(STRIP_ROWS, height)), height)
    offsets, sizes = tags[STRIP_OFFSETS], tags[STRIP_BYTES]
    strips = [
        _Segment(offset, size, min(rows, height - number * rows))
        for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True))
    ]
    if tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED or tags.get(PHOTOMETRIC) == YCBCR or len(strips) > 1:
        return strips, width, rows
    bits = tags.get(BITS, (1,))
    in_row = -(-width * sum(bits if len(bits) == tags.get(SAMPLES, 1) else (bits[0],) * tags[SAMPLES]) // 8)
    if in_row * height != sizes[0]:
        return strips, width, rows
    cut = [
        _Segment(offsets[0] + in_row * top, in_row * min(RAW_ROWS, height - top), min(RAW_ROWS, height - top))
        for top in range(0, height, RAW_ROWS)
    ]
    return cut, width, min(RAW_ROWS, height)


def _as_file(tags: Any, content: bytes, width: int, height: int) -> bytes:
    """Return a TIFF with one strip, which holds the bytes of a strip or tile of another TIFF."""
    own = TiffImagePlugin.ImageFileDirectory_v2(prefix=tags.prefix)
    for tag in PER_SEGMENT:
        if tag in tags:
            own.tagtype[tag] = tags.tagtype[tag]
            own[tag] = tags[tag]
    own[WIDTH], own[HEIGHT], own[STRIP_ROWS], own[STRIP_BYTES] = width, height, height, len(content)
    own[STRIP_OFFSETS] = 0  # Pillow adds the length of the tags
    file = BytesIO()
    own.save(file)
    return file.getvalue() + content
