"""Opens image files that may be damaged or hostile: known formats only, a limit on size, one kind of error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from segmentation.errors import InputError
from segmentation.io.channels import TIFF_SIGNATURES, Layout, Raster, is_of_pillow, layout_of, read_channels
from segmentation.io.limits import MAX_PIXELS
from segmentation.io.pixels import FORMATS, RGB, UnfitError, color_image, mask_colors, mask_values, value_colors

MAX_FILE_BYTES = 2**30
"""Larger image files are refused: an uncompressed image of `MAX_PIXELS` is smaller."""
BYTES_PER_PIXEL = 6
"""Limit on the bytes of a file for each pixel of a higher `pixel_limit`."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns at half of its limit


class TooLargeError(InputError):
    """An image has more pixels than `pixel_limit` allows."""


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Inside the `with`, images of up to so many pixels are read, in all threads; outside it is `MAX_PIXELS`."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def check_size(name: object, pixels: int) -> None:
    """Raise a `TooLargeError` if an image has more pixels than the limit."""
    limit = Image.MAX_IMAGE_PIXELS or MAX_PIXELS
    if pixels > limit:
        raise TooLargeError(f"{name} is too large: more than {limit:,} pixels ({pixels:,})")


def read_image(file: Path | BytesIO, name: object = "it", channels: int = RGB, bits: int | None = None) -> Raster:
    """Return the image in a file, with its EXIF orientation applied; see `channels.read_channels`.

    Args:
        file: a path, or the file's content.
        name: what error messages call the file.
        channels: number of channels that it must have. For 3, images of 8 bits are converted to RGB.
        bits: bits per channel that it must have, 8 or 16; None allows both.

    Raises:
        InputError: the file has other channels or bits, or cannot be read exactly; the message says why.
    """
    with _explaining(file, name):
        _check_size(file, name)
        if channels != RGB or bits not in (None, 8) or not is_of_pillow(file):
            return read_channels(file, channels, bits)
    with decoded(file, name) as image:
        return color_image(image)


def image_layout(file: Path | BytesIO, name: object = "it") -> Layout:
    """Return what the header of an image file states, without reading its pixels.

    Raises:
        InputError: the file cannot be read exactly; the message says why.
    """
    with _explaining(file, name):
        _check_size(file, name)
        return layout_of(file)


def _check_size(file: Path | BytesIO, name: object) -> None:
    most = max(MAX_FILE_BYTES, BYTES_PER_PIXEL * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    if isinstance(file, Path) and file.stat().st_size > most:
        raise InputError(f"{name} is too large: the file has more than {most:,} bytes")


def read_mask(file: Path | BytesIO, name: object = "it") -> np.ndarray:
    """Return the integers `(H, W)` that a mask file stores, with its EXIF orientation applied.

    Args:
        file: a path, or the file's content.
        name: what error messages call the file.

    Raises:
        InputError: the file cannot be read exactly; the message says why.
    """
    with decoded(file, name) as image:
        return mask_values(image)


class ColorMask(NamedTuple):
    """A mask file as its pixels are shown."""

    values: np.ndarray | None
    """The integers `(H, W)` of a greyscale or palette mask; None for RGB and RGBA."""
    colors: np.ndarray
    """uint32 `0xRRGGBB`: for each pixel `(H, W)` of RGB and RGBA, otherwise for each value `(N,)`."""


def read_color_mask(file: Path | BytesIO, name: object = "it") -> ColorMask:
    """Return the values or the colours of a mask file, with its EXIF orientation applied.

    Args:
        file: a path, or the file's content.
        name: what error messages call the file.

    Raises:
        InputError: the file cannot be read exactly; the message says why.
    """
    with decoded(file, name) as image:
        if image.mode in ("RGB", "RGBA"):
            return ColorMask(None, mask_colors(image))
        return ColorMask(mask_values(image), value_colors(image))


@contextmanager
def decoded(file: Path | BytesIO, name: object = "it") -> Iterator[Image.Image]:
    """Open an image file, and decode it at the end of the block unless the block has done so.

    Args:
        file: a path, or the file's content.
        name: what error messages call the file.

    Raises:
        InputError: the file cannot be read, or an exception was raised inside the block.
    """
    with _explaining(file, name):
        _check_size(file, name)
        with Image.open(file, formats=_formats()) as image:
            check_size(name, image.width * image.height)
            if not image.width * image.height:
                raise InputError(f"{name} has no pixels: {image.width} x {image.height}")
            yield image
            image.load()


@contextmanager
def _explaining(file: Path | BytesIO, name: object) -> Iterator[None]:
    """Turn any exception that decoding a file raises into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except UnfitError as error:
        raise InputError(f"{name} {error}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        count = int(re.findall(r"\d+", str(error))[0])
        raise TooLargeError(
            f"{name} is too large: more than {Image.MAX_IMAGE_PIXELS or MAX_PIXELS:,} pixels ({count:,})"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be read as an image: {_why_unidentified(file)}") from error
    except Exception as error:  # decoders raise nearly any exception for damaged files
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
        reason = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:200]) or type(error).__name__
        raise InputError(f"{name} cannot be read as an image; the file is damaged or cut off: {reason}") from error


def pixel_count(file: Path) -> int:
    """Return width times height from an image file's header, or 0 if the header cannot be read."""
    try:
        with Image.open(file, formats=_formats()) as image:
            return image.width * image.height
    except Exception:  # decoders raise nearly any exception for damaged files; `decoded` reports it later
        with suppress(Exception):
            layout = layout_of(file)  # a TIFF that Pillow does not know
            return layout.width * layout.height
        return 0


def _why_unidentified(file: Path | BytesIO) -> str:
    """Why Pillow recognises no image in a file."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            signature = stream.read(4)
    else:
        signature = file.getvalue()[:4]
    if signature in TIFF_SIGNATURES:
        return "it is a TIFF with unsupported bands or bit depth; save it with 8 bits per channel, as RGB or greyscale"
    return f"it is empty, or of no known format ({', '.join(FORMATS)})"


@cache
def _formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
