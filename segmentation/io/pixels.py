"""Converts opened image and mask files to pixels: frames, EXIF orientation, bit depth, bands and modes.

Training, evaluation, prediction and the served model all read pixels through this module. Every logged model carries a
copy of it, so it imports nothing else from this project.

The EXIF orientation is applied to images and to masks. A file that cannot be read exactly raises `UnfitError`.
"""

import struct
from collections.abc import Sequence
from itertools import count

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
"""Supported formats; the file's ending does not matter. JPEG includes MPO, a camera's JPEG with several frames. Pillow
reads more formats, but it does not report the bit depth of some, and it runs another program for EPS."""

BITS, PHOTOMETRIC, SAMPLES, SUBFILE, EXTRA, SAMPLE_FORMAT = 258, 262, 277, 254, 338, 339
"""TIFF tags."""
ORIENTATION = 274
"""EXIF tag, and TIFF's."""
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Number of colour bands for each photometric interpretation of TIFF; all other bands are extra samples."""
RGB = 3
"""Channels of the images that Pillow alone reads."""
SIGNED = 2
"""Value of TIFF's SAMPLE_FORMAT for signed integers."""
COPY_BITS = 0b101
"""Bits of TIFF's SUBFILE that mark a page as a smaller copy of another page, or as its transparency mask."""
LOSSY = ("jpeg", "tiff_jpeg", "webp")
"""Lossy compressions of TIFF."""


class UnfitError(ValueError):
    """The pixels cannot be read exactly. The message continues the file's name: "has more than 8 bits per channel"."""


def color_image(image: Image.Image) -> Image.Image:
    """Return an opened image as RGB, with its EXIF orientation applied and transparency dropped.

    Of a camera's JPEG with several frames (MPO), returns the first frame.

    Raises:
        UnfitError: the image has several frames, more than 8 bits per channel, or bands that are neither colour nor
            transparency.
    """
    if image.format != "MPO":
        refuse_frames(image)
    refuse_odd_bmp(image)
    if bits_per_channel(image) > 8:
        raise UnfitError(f"has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
    refuse_extra_bands(image)
    if image.mode in ("LAB", "HSV"):
        raise UnfitError(f"is in the colour space {image.mode}; convert it to RGB")
    upright = _upright(image)
    if upright.mode in ("P", "PA", "La") or "transparency" in upright.info:
        upright = upright.convert(
            "LA" if upright.mode == "La" else "RGBA"
        )  # Pillow warns or fails on a direct conversion to RGB
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def mask_values(image: Image.Image) -> np.ndarray:
    """Return the integers `(H, W)` that an opened mask stores, with its EXIF orientation applied.

    Of a palette image, returns the palette indices. Does not scale values of 1, 2 and 4 bits. Ignores colour keys.

    Raises:
        UnfitError: the mask has colours, fractions, transparency, several frames or lossy compression.
    """
    _refuse_lossy(image)
    refuse_frames(image)
    refuse_odd_bmp(image)
    mode, bits = image.mode, bits_per_channel(image)
    if mode not in ("1", "L", "P", "I", "F") and not mode.startswith("I;"):
        raise UnfitError(
            f"{_kind(image)} (mode {mode}); a mask must have one class index per pixel, as a greyscale or palette "
            f"image, unless classes.json states the colours of the classes"
        )
    tags = getattr(image, "tag_v2", {})
    if mode != "P" and tags.get(PHOTOMETRIC) == 0:
        raise UnfitError(
            "is a TIFF in which 0 is white (MinIsWhite); programs disagree about its values. Save it as png, or as a "
            "TIFF in which 0 is black"
        )
    if tags.get(SAMPLES, 1) > 1:
        raise UnfitError(
            f"has {tags[SAMPLES]} bands; a mask must have one class index per pixel: save the band that holds them"
        )
    values = np.asarray(_upright(image))
    if mode == "1":
        return values.astype(np.uint8)
    if mode == "F":
        return _whole_numbers(values)
    if mode == "L" and _numbers(tags.get(SAMPLE_FORMAT, 1)) == (SIGNED,):
        return values.view(np.int8)  # read as unsigned, -1 would be 255: void
    if mode == "L" and bits in (2, 4):
        return values // np.uint8(255 // (2**bits - 1))  # undoes Pillow's scaling to 0-255
    return values


def mask_colors(image: Image.Image) -> np.ndarray:
    """Return the colours `(H, W)` of an opened RGB or RGBA mask as uint32 `0xRRGGBB`; applies the EXIF orientation.

    Raises:
        UnfitError: the mask has transparent pixels, several frames, more than 8 bits per channel or lossy compression.
    """
    _refuse_lossy(image)
    refuse_frames(image)
    if bits_per_channel(image) > 8:
        raise UnfitError(f"has more than 8 bits per channel (mode {image.mode}); save the mask with 8 bits")
    refuse_extra_bands(image)
    upright = _upright(image)
    if image.mode == "RGBA":
        transparent = np.count_nonzero(np.asarray(upright)[..., 3] != 255)
        if transparent:
            raise UnfitError(
                f"has {transparent} transparent pixels, so their colour is not certain; save the mask without "
                f"transparency"
            )
    pixels = np.array(upright.convert("RGBA"))  # 4 bytes a pixel, read as one number
    return pixels.view(">u4")[..., 0].astype(np.uint32) >> 8


def value_colors(image: Image.Image) -> np.ndarray:
    """Return the colour in which each value of an opened greyscale or palette mask is shown, as uint32 `0xRRGGBB`.

    Of a mask of more than 8 bits, returns none.
    """
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [], np.uint32).reshape(-1, 3)
        return palette @ np.array([0x10000, 0x100, 1], np.uint32)
    bits = 1 if image.mode == "1" else bits_per_channel(image)
    if bits > 8:
        return np.zeros(0, np.uint32)
    return np.arange(2**bits, dtype=np.uint32) * np.uint32(0x010101 * (255 // (2**bits - 1)))


def _refuse_lossy(image: Image.Image) -> None:
    if image.format in ("JPEG", "MPO") or image.info.get("compression") in LOSSY:
        raise UnfitError(
            "is a JPEG, which does not store class indices exactly, nor their colours; export masks as png or tif"
        )


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Convert floating-point values `(H, W)` to integers. Geographic software stores class indices as floats.

    Raises:
        UnfitError: some values are not whole numbers.
    """
    wrong = ~(np.abs(values) < 2**24) | (values != np.round(values))
    if wrong.any():
        raise UnfitError(
            f"holds {values[wrong][0]:g}, which is not a class index ({np.count_nonzero(wrong)} pixels are not whole "
            f"numbers); save whole numbers"
        )
    return values.astype(np.int32)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8, of an image that is opened but not yet loaded."""
    if image.format == "TIFF":
        return int(
            getattr(image, "tag_v2", {}).get(ORIENTATION, 1)
        )  # Pillow applies and removes a TIFF's orientation on loading
    image.load()  # a PNG may store it after the pixels
    return int(image.getexif().get(ORIENTATION, 1))


def _upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its EXIF orientation."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises nearly any exception for damaged metadata
        raise UnfitError(
            f"has damaged EXIF data ({error!s:.60}), so its orientation is unknown; save it upright and without EXIF"
        ) from error


def _kind(image: Image.Image) -> str:
    """Describe a mask whose mode cannot hold class indices."""
    if _raw_mode(image).partition(";")[0] == "LA" or image.mode in ("LA", "La", "PA"):
        return "has a transparency channel"
    return "is a colour image"


def _raw_mode(image: Image.Image) -> str:
    """Pillow's raw mode of an image that is not yet decoded, such as `RGB;16B`; empty if Pillow has none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def bits_per_channel(image: Image.Image) -> int:
    """Return the stored bits per channel of an image that is opened but not yet decoded."""
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


def refuse_frames(image: Image.Image) -> None:
    """Raise if the file has several frames, or several pages that are not copies of the first."""
    if not getattr(image, "is_animated", False):
        return
    if image.format == "TIFF":
        pages = False
        for page in count(1):
            try:
                image.seek(page)
            except EOFError:
                break
            pages = not getattr(image, "tag_v2", {}).get(SUBFILE, 0) & COPY_BITS
            if pages:
                break
        image.seek(0)
        if not pages:
            return
    raise UnfitError("holds several images (pages or frames); save the one to use as a file of its own")


def refuse_extra_bands(image: Image.Image) -> None:
    """Raise if a TIFF has a band that is neither colour nor declared as transparency, such as near infrared."""
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    bands = tags.get(SAMPLES, 1)
    extra = bands - COLOURS.get(tags.get(PHOTOMETRIC, 1), bands)
    kinds = _numbers(tags.get(EXTRA, ()))
    if extra and not (extra == 1 and len(kinds) == 1 and kinds[0] in (1, 2)):
        raise UnfitError(
            f"has {bands} bands, of which {extra} would be lost: neither colour nor declared as transparency (for "
            f"example near infrared); save it with only the 3 bands that the model uses"
        )


def refuse_odd_bmp(image: Image.Image) -> None:
    """Raise if a greyscale BMP has another bit depth than the one that Pillow assumes."""
    if image.format != "BMP" or image.mode not in ("1", "L") or not getattr(image, "tile", None):
        return
    file = getattr(image, "fp", None)
    if file is None or _raw_mode(image) not in ("1", "L") or image.tile[0][0] != "raw":  # type: ignore[attr-defined]
        return
    position = file.tell()
    file.seek(14)
    header = file.read(16)
    file.seek(position)
    is_os2 = struct.unpack("<I", header[:4])[0] == 12
    bits = struct.unpack("<H", header[10:12] if is_os2 else header[14:16])[0]
    if bits != (1 if image.mode == "1" else 8):
        raise UnfitError(f"is a BMP of {bits} bits with a grey palette, which cannot be read exactly; save it as png")


def _numbers(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)
