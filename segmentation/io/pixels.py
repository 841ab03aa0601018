"""How the pixels of an image or a mask are read: frames, orientation, bit depth, bands and modes, decided here alone.

Training, evaluation, prediction and the served model all read through this file. A copy goes along with every logged
model, for a server that has nothing else of this project: it imports none of it.

An image is turned as its EXIF orientation says, and so is a mask. What cannot be read exactly raises `UnfitError`.
"""

import struct
from collections.abc import Sequence
from itertools import count

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
"""Formats that are read, whatever a file's ending. JPEG includes MPO, a camera's JPEG with further frames. Pillow knows
more: some have a bit depth that it does not report, and for one (EPS) it starts another program."""

BITS, PHOTOMETRIC, SAMPLES, SUBFILE, EXTRA, SAMPLE_FORMAT = 258, 262, 277, 254, 338, 339
"""TIFF tags."""
ORIENTATION = 274
"""EXIF tag, and TIFF's."""
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Bands that hold the colour, by TIFF's photometric interpretation; all others are extra samples."""
SIGNED = 2
"""Value of TIFF's SAMPLE_FORMAT."""
IS_COPY = 0b101
"""Bits of TIFF's SUBFILE for a page that is a smaller copy of another, or its transparency."""
LOSSY = ("jpeg", "tiff_jpeg", "webp")
"""Compressions of TIFF that change values."""


class UnfitError(ValueError):
    """Pixels that would be misread. The message goes on after the file's name: "has more than 8 bits a channel"."""


def color_image(image: Image.Image) -> Image.Image:
    """Return an opened image in RGB, turned as its EXIF orientation says; transparency is dropped.

    Of a camera's several JPEG frames (MPO) it is the first.

    Raises:
        UnfitError: it has several frames, over 8 bits a channel, or bands that are neither colour nor transparency.
    """
    if image.format != "MPO":
        _refuse_frames(image)
    _refuse_odd_bmp(image)
    if _bits(image) > 8:
        raise UnfitError(f"has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
    _refuse_extra_bands(image)
    if image.mode in ("LAB", "HSV"):
        raise UnfitError(f"is in the colour space {image.mode}; convert it to RGB")
    upright = _upright(image)
    if upright.mode in ("P", "PA", "La") or "transparency" in upright.info:
        upright = upright.convert("LA" if upright.mode == "La" else "RGBA")  # straight to RGB, Pillow warns or fails
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def mask_values(image: Image.Image) -> np.ndarray:
    """Return the values `(H, W)` that an opened mask stores, integers, turned as its EXIF orientation says.

    Of a palette image they are the indices. Values of 1, 2 and 4 bits are not scaled; colour keys change nothing.

    Raises:
        UnfitError: it has colours, fractions, transparency, several frames, or was compressed with loss.
    """
    if image.format in ("JPEG", "MPO") or image.info.get("compression") in LOSSY:
        raise UnfitError("is a JPEG, which does not keep class indices exactly; save masks as png or tif")
    _refuse_frames(image)
    _refuse_odd_bmp(image)
    mode, bits = image.mode, _bits(image)
    if mode not in ("1", "L", "P", "I", "F") and not mode.startswith("I;"):
        raise UnfitError(
            f"{_kind(image)} (mode {mode}); a mask holds one class index a pixel, as a greyscale or palette image"
        )
    tags = getattr(image, "tag_v2", {})
    if mode != "P" and tags.get(PHOTOMETRIC) == 0:
        raise UnfitError(
            "is a TIFF whose 0 is white (MinIsWhite), and programs disagree about its values; save it as png, or as a "
            "TIFF whose 0 is black"
        )
    if tags.get(SAMPLES, 1) > 1:
        raise UnfitError(
            f"has {tags[SAMPLES]} bands; a mask holds one class index a pixel: save the band that has them"
        )
    values = np.asarray(_upright(image))
    if mode == "1":
        return values.astype(np.uint8)
    if mode == "F":
        return _whole_numbers(values)
    if mode == "L" and _numbers(tags.get(SAMPLE_FORMAT, 1)) == (SIGNED,):
        return values.view(np.int8)  # as bytes, -1 would be void
    if mode == "L" and bits in (2, 4):
        return values // np.uint8(255 // (2**bits - 1))  # Pillow has scaled them to 0-255
    return values


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Floating-point values `(H, W)` as integers, which geographic programs store as floats.

    Raises:
        UnfitError: some are no whole numbers.
    """
    wrong = ~(np.abs(values) < 2**24) | (values != np.round(values))
    if wrong.any():
        raise UnfitError(
            f"holds {values[wrong][0]:g}, which is no class index ({np.count_nonzero(wrong)} pixels are no whole "
            f"numbers); save whole numbers"
        )
    return values.astype(np.int32)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image that was opened and not yet loaded: 1 (upright) to 8."""
    if image.format == "TIFF":
        return int(getattr(image, "tag_v2", {}).get(ORIENTATION, 1))  # Pillow turns a TIFF when it loads it
    image.load()  # in a PNG it may stand behind the pixels
    return int(image.getexif().get(ORIENTATION, 1))


def _upright(image: Image.Image) -> Image.Image:
    """The image decoded and turned as its EXIF orientation says."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises nearly anything for damaged metadata
        raise UnfitError(
            f"has damaged EXIF data ({error!s:.60}), so which way is up is unknown; save it upright and without them"
        ) from error


def _kind(image: Image.Image) -> str:
    """What a mask is that holds no class indices."""
    if _raw_mode(image).partition(";")[0] == "LA" or image.mode in ("LA", "La"):
        return "has transparency beside its grey values"
    if image.mode == "PA":
        return "has transparency beside its palette's indices"
    return "is a colour image"


def _raw_mode(image: Image.Image) -> str:
    """How a file that is not yet decoded stores its pixels, in Pillow's words: `RGB;16B`; empty where it has none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _bits(image: Image.Image) -> int:
    """Bits of a channel as it is stored."""
    if image.mode in ("F", "I"):
        return 32
    if image.mode.startswith("I;"):
        return 16
    if image.format == "TIFF":
        return max(_numbers(getattr(image, "tag_v2", {}).get(BITS, 1)))
    packed = _raw_mode(image).partition(";")[2].rstrip("BLNIRS")
    if image.format == "PNG" and packed.isdigit():
        return int(packed)
    return 1 if image.mode == "1" else 8


def _refuse_frames(image: Image.Image) -> None:
    """Raise for a file of several images: frames of an animation, or pages that are no copies of the first."""
    if not getattr(image, "is_animated", False):
        return
    if image.format == "TIFF":
        pages = False
        for page in count(1):
            try:
                image.seek(page)
            except EOFError:
                break
            pages = not getattr(image, "tag_v2", {}).get(SUBFILE, 0) & IS_COPY
            if pages:
                break
        image.seek(0)
        if not pages:
            return
    raise UnfitError("holds several images (pages or frames of an animation); save the one that is meant by itself")


def _refuse_extra_bands(image: Image.Image) -> None:
    """Raise for a TIFF with a band that is neither colour nor declared as transparency, such as near infrared."""
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    bands = tags.get(SAMPLES, 1)
    extra = bands - COLOURS.get(tags.get(PHOTOMETRIC, 1), bands)
    kinds = _numbers(tags.get(EXTRA, ()))
    if extra and not (extra == 1 and len(kinds) == 1 and kinds[0] in (1, 2)):
        raise UnfitError(
            f"has {bands} bands, of which {extra} would be lost: neither colour nor declared as transparency (near "
            f"infrared, say); save it with the 3 bands that the model is to see"
        )


def _refuse_odd_bmp(image: Image.Image) -> None:
    """Raise for a greyscale BMP whose pixels have fewer or more bits than Pillow takes them to have."""
    if image.format != "BMP" or image.mode not in ("1", "L") or not getattr(image, "tile", None):
        return
    file = getattr(image, "fp", None)
    if file is None or _raw_mode(image) not in ("1", "L") or image.tile[0][0] != "raw":  # type: ignore[attr-defined]
        return
    place = file.tell()
    file.seek(14)
    header = file.read(16)
    file.seek(place)
    old = struct.unpack("<I", header[:4])[0] == 12
    bits = struct.unpack("<H", header[10:12] if old else header[14:16])[0]
    if bits != (1 if image.mode == "1" else 8):
        raise UnfitError(f"is a BMP of {bits} bits with a grey palette, which is not read exactly; save it as png")


def _numbers(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)
