"""Files of pictures decoded without trust: only known formats, nothing of absurd size, and one kind of error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segmentation.errors import InputError

LARGEST = 178_956_970
"""Pixels of a picture beyond which it is refused before it is decoded: where Pillow gives up by default. The largest
single photographs have 150 million; this many take 0.7 GB."""
LARGEST_FILE = 2**30
"""Bytes of a picture's file, likewise: more than so many pixels take when nothing is compressed."""
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is read, whatever a file's ending. Pillow knows more, and starts another program for one of them (EPS)."""

Image.MAX_IMAGE_PIXELS = LARGEST  # Pillow would warn of half as many


@contextmanager
def decoded(file: Path | BytesIO, name: object = "it") -> Iterator[Image.Image]:
    """The picture in a file, of several frames the first, in the mode that it is stored in.

    Args:
        file: what to read.
        name: what the file is called in an error.

    Raises:
        InputError: why it cannot be read, or why what is done with it inside fails.
    """
    try:
        if isinstance(file, Path) and file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{name} is too large: a file of more than {LARGEST_FILE:,} bytes")
        with Image.open(file, formats=_formats()) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or LARGEST):
                raise Image.DecompressionBombError(f"{image.width * image.height}")
            if not image.width * image.height:
                raise InputError(f"{name} has no pixels: {image.width} x {image.height}")
            image.load()
            yield image
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        count = int(re.findall(r"\d+", str(error))[0])
        raise InputError(
            f"{name} is too large: more than {Image.MAX_IMAGE_PIXELS or LARGEST:,} pixels ({count:,})"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be read as an image: it is empty, or of no known format") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
        why = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read as an image, it is damaged or cut off: {why}") from error


def pixels_in(file: Path) -> int:
    """Width times height of the image in a file, read from its header; 0 if there is none, which `decoded` reports."""
    try:
        with Image.open(file, formats=_formats()) as image:
            return image.width * image.height
    except Exception:  # readers of damaged files raise nearly anything
        return 0


def refuse_deep(image: Image.Image, name: object = "it") -> None:
    """Raise an `InputError` for a picture of more than 8 bits a channel."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InputError(f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
