"""Image files found below a folder and decoded without trust: known formats only, no absurd size, one kind of error."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NoReturn

from PIL import Image, UnidentifiedImageError

from segmentation.errors import InputError
from segmentation.io.pixels import FORMATS, UnfitError

LARGEST = 178_956_970
"""Pixels of a picture beyond which it is refused before it is decoded: where Pillow gives up by default. The largest
single photographs have 150 million; this many take 0.7 GB."""
LARGEST_FILE = 2**30
"""Bytes of a picture's file, likewise: more than so many pixels take when nothing is compressed."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of files that are taken for images or masks, in any case."""
CLUTTER = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
"""Folders, in lower case, that systems and tools leave beside images."""

TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF and of a BigTIFF, in either byte order."""

Image.MAX_IMAGE_PIXELS = LARGEST  # Pillow would warn of half as many


@contextmanager
def decoded(file: Path | BytesIO, name: object = "it") -> Iterator[Image.Image]:
    """Open the image in a file, to be read inside with `pixels`; if it is not, it is decoded at the end.

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
            yield image
            image.load()
    except InputError:
        raise
    except UnfitError as error:
        raise InputError(f"{name} {error}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        count = int(re.findall(r"\d+", str(error))[0])
        raise InputError(
            f"{name} is too large: more than {Image.MAX_IMAGE_PIXELS or LARGEST:,} pixels ({count:,})"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be read as an image: {_unidentified(file)}") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
        why = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read as an image, it is damaged or cut off: {why}") from error


def _unidentified(file: Path | BytesIO) -> str:
    """Why Pillow finds no image in a file."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            begin = stream.read(4)
    else:
        begin = file.getvalue()[:4]
    if begin in TIFF_BEGINS:
        return "it is a TIFF whose bands or bits are of an unknown kind; save it with 8 bits, as RGB or greyscale"
    return f"it is empty, or of no known format ({', '.join(FORMATS)})"


def pixels_in(file: Path) -> int:
    """Width times height of the image in a file, read from its header; 0 if there is none, which `decoded` reports."""
    try:
        with Image.open(file, formats=_formats()) as image:
            return image.width * image.height
    except Exception:  # readers of damaged files raise nearly anything
        return 0


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems and tools leave beside images."""
    return name.startswith(".") or name.casefold() in CLUTTER


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below one, itself included, with the names of its folders and files, as `os.walk` does.

    Links are followed, but not into a folder that they are in. Clutter is left out.

    Raises:
        InputError: a folder cannot be read.
    """
    above: dict[str, set[str]] = {str(folder): set()}
    for name, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        around = above.pop(name) | {os.path.realpath(name)}
        folders[:] = [
            each
            for each in folders
            if not is_clutter(each) and os.path.realpath(os.path.join(name, each)) not in around  # noqa: PTH118
        ]
        yield Path(name), folders, [each for each in files if not is_clutter(each)]
        above.update((os.path.join(name, each), around) for each in folders)  # noqa: PTH118


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
