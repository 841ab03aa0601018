"""Images of any number of channels, of 8 or 16 bits: reading, resizing and display.

An RGB image of 8 bits is a `PIL.Image`, every other image is a `ChannelImage`. Pillow reads files of 8 bits per channel
with up to 4 channels; imagecodecs reads PNG files of 16 bits, of which Pillow drops 8; tifffile reads all other TIFF
files.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from segmentation.io.pixels import (
    COPY_BITS,
    FORMATS,
    ORIENTATION,
    RGB,
    UnfitError,
    bits_per_channel,
    color_image,
    orientation,
    refuse_extra_bands,
    refuse_frames,
    refuse_odd_bmp,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG."""
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF and of a BigTIFF, in either byte order."""
DTYPES = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
"""Type of the pixels for each number of bits."""
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Channels of Pillow's modes that are read as they are, alpha included."""
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels of PNG's colour types, alpha included."""
ALPHA = (1, 2)
"""Values of TIFF's extra samples that mark transparency."""
MAX_BYTES = 4 * 178_956_970
"""Largest size of the decoded pixels: that of Pillow's largest image."""
File = Path | BytesIO
"""A path, or a file's content."""
MAX_PAGES = 64
"""Pages of a TIFF that are looked at: an image with its reduced copies and their masks has half as many."""
SHOWN = (1.0, 99.0)
"""Percentiles of a channel that are shown as black and white."""

for _library in ("PIL.TiffImagePlugin", "imagecodecs", "tifffile"):  # they print what they raise, or read all the same
    logging.getLogger(_library).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class ChannelImage:
    """An image with any number of channels, of 8 or 16 bits."""

    values: np.ndarray
    """`(H, W, N)` uint8 or uint16."""

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def height(self) -> int:
        return int(self.values.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as of a `PIL.Image`."""
        return self.width, self.height

    def tobytes(self) -> bytes:
        """Return the pixels' bytes, as of a `PIL.Image`."""
        return self.values.tobytes()


Raster = Image.Image | ChannelImage
"""An RGB image of 8 bits, or an image with other channels or bits."""


def as_array(image: Raster) -> np.ndarray:
    """Return the pixels of an image, `(H, W, N)` uint8 or uint16."""
    return image.values if isinstance(image, ChannelImage) else np.array(image)


def bits_of(pixels: np.ndarray) -> int:
    """Return the bits per channel of an array, 8 or 16."""
    return 8 * pixels.dtype.itemsize


class Layout(NamedTuple):
    """What the header of an image file states."""

    width: int
    height: int
    channels: int
    """Alpha included."""
    alpha: int
    """How many of the channels are transparency; they are the last ones."""
    bits: int
    format: str
    """Such as `PNG`."""

    def described(self) -> str:
        """Return channels and bits for messages."""
        with_alpha = ", transparency included" if self.alpha else ""
        return f"{counted(self.channels)} of {self.bits} bits{with_alpha}"


def counted(channels: int) -> str:
    """Return a number of channels as text."""
    return f"{channels} channel{'' if channels == 1 else 's'}"


def read_channels(file: File, channels: int = RGB, bits: int | None = None) -> Raster:
    """Return the image in a file, with its orientation applied.

    Transparency is a channel if `channels` counts it, and is dropped if the file has `channels` others.

    Args:
        file: a path, or the file's content.
        channels: number of channels that it must have. For 3, images of 8 bits are converted to RGB by `color_image`.
        bits: bits per channel that it must have, 8 or 16; None allows both.

    Raises:
        UnfitError: it has other channels or bits, or the file cannot be read exactly.
        Exception: of nearly any type, if the file is damaged.
    """
    if channels == RGB and is_of_pillow(file):
        with Image.open(file, formats=FORMATS) as image:
            check_layout(Layout(*image.size, RGB, 0, 8, str(image.format)), channels, bits)
            return color_image(image)
    layout = layout_of(file)
    check_layout(layout, channels, bits)
    if layout.width * layout.height > (Image.MAX_IMAGE_PIXELS or MAX_BYTES):
        raise Image.DecompressionBombError(f"{layout.width * layout.height}")
    if layout.width * layout.height * layout.channels * layout.bits // 8 > MAX_BYTES:
        raise UnfitError(f"is too large: {layout.width} x {layout.height} pixels with {layout.described()}")
    values = _reader(layout)(file)
    expected = (layout.height, layout.width)
    if values.shape[:2] not in (expected, expected[::-1]) or values.dtype != DTYPES[layout.bits]:
        raise UnfitError(f"is damaged: its pixels are {values.dtype} {values.shape}, where it states {layout}")
    return ChannelImage(np.ascontiguousarray(values[..., :channels]))


def check_layout(layout: Layout, channels: int, bits: int | None) -> None:
    """Raise an `UnfitError` if an image has other channels or bits than expected."""
    expected = f"{counted(channels)}{'' if bits is None else f' of {bits} bits'}"
    if channels not in (layout.channels, layout.channels - layout.alpha):
        fitting = layout.channels - layout.alpha
        also = f" ({layout.channels} to use its transparency, too)" if layout.alpha else ""
        raise UnfitError(
            f"has {layout.described()}; expected {expected}. Train with channels={fitting}{also}, or use files with "
            f"{counted(channels)}"
        )
    if bits not in (None, layout.bits):
        raise UnfitError(f"has {layout.described()}; expected {expected}: convert it to {bits} bits")


def layout_of(file: File) -> Layout:
    """Return what the header of an image file states. Reads no pixels.

    Raises:
        UnfitError: the pixels are neither 8 nor 16 bits, or have another meaning than brightness; the message says
            what to convert the file to.
        Exception: of nearly any type, if the file is damaged or no image.
    """
    head = _head(file)
    if head[:4] in TIFF_SIGNATURES:
        return _tiff_layout(file)
    with Image.open(file, formats=FORMATS) as image:
        if image.format != "MPO":
            refuse_frames(image)
        refuse_odd_bmp(image)
        bits = bits_per_channel(image)
        if image.format == "PNG" and bits == 16:
            channels = PNG_CHANNELS[head[25]]
            return Layout(*_upright_size(image), channels, channels in (2, 4), 16, "PNG")
        if bits != 8:
            unit = "bit" if bits == 1 else "bits"
            raise UnfitError(f"has {bits} {unit} per channel (mode {image.mode}): convert it to 8 or 16 bits")
        if image.mode not in MODES:
            raise UnfitError(f"has mode {image.mode}, not grey or RGB: convert it to grey, or to RGB")
        channels = MODES[image.mode]
        return Layout(*_upright_size(image), channels, channels in (2, 4), 8, str(image.format))


def is_of_pillow(file: File) -> bool:
    """Return whether Pillow alone reads a file that must have three channels, or explains what is wrong with it."""
    head = _head(file)
    is_tiff = head[:4] in TIFF_SIGNATURES
    if not is_tiff and not head.startswith(PNG_SIGNATURE):
        return True
    try:
        with Image.open(file, formats=FORMATS) as image:
            refuse_extra_bands(image)
            return bits_per_channel(image) <= 8 or not (is_tiff or image.format == "PNG")
    except UnfitError:
        return False
    except UnidentifiedImageError:
        return not is_tiff
    except Exception:  # Pillow raises nearly any type for a damaged file, and will again
        return True


def _head(file: File) -> bytes:
    """Return the first bytes of a file."""
    if isinstance(file, BytesIO):
        return bytes(file.getbuffer()[:26])
    with file.open("rb") as stream:
        return stream.read(26)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height with the orientation that a file states in its header applied."""
    width, height = image.size
    turned = int(image.getexif().get(ORIENTATION, 1)) if "exif" in image.info else 1
    return (height, width) if turned >= 5 else (width, height)


def _reader(layout: Layout) -> Callable[[File], np.ndarray]:
    if layout.format == "TIFF":
        return _read_tiff
    return _read_png if layout.bits == 16 else _read_pillow


def _read_pillow(file: File) -> np.ndarray:
    with Image.open(file, formats=FORMATS) as image:
        turned = orientation(image)
        image.load()
        return turn(np.asarray(image).reshape(image.height, image.width, -1), turned)


def _read_png(file: File) -> np.ndarray:
    import imagecodecs

    with Image.open(file, formats=FORMATS) as image:
        turned = orientation(image)
    values = np.asarray(imagecodecs.png_decode(file.getvalue() if isinstance(file, BytesIO) else file.read_bytes()))
    return turn(values.reshape(*values.shape[:2], -1), turned)


def _tiff_layout(file: File) -> Layout:
    with _tiff(file) as opened:
        page = _only_page(opened)
        described = f"{counted(page.samplesperpixel)} of type {page.dtype}"
        stored = page.bitspersample
        bits = set(stored) if isinstance(stored, tuple) else {stored}
        if page.dtype not in (np.uint8, np.uint16) or bits != {8 * page.dtype.itemsize}:
            stated = " or ".join(sorted(map(repr, bits)))
            raise UnfitError(
                f"is a TIFF with {described} and {stated:.40} bits: convert it to unsigned integers of 8 bits "
                f"(uint8) or 16 bits (uint16)"
            )
        if page.photometric not in (1, 2):
            name = getattr(page.photometric, "name", page.photometric)
            raise UnfitError(
                f"is a TIFF with {described} and photometric interpretation {name!r:.20}: save it with MINISBLACK or "
                f"RGB"
            )
        if page.imagedepth != 1 or page.axes not in ("YX", "YXS", "SYX"):
            raise UnfitError(f"is a TIFF with axes {page.axes}: save it as one page of rows, columns and channels")
        extra = [int(each) for each in page.extrasamples]
        alpha = len(extra) - next((at for at, each in enumerate(extra) if each in ALPHA), len(extra))
        if alpha > 1:
            alpha = 0  # transparency that is not the last channel is a channel like the others
        height, width = page.imagelength, page.imagewidth
        if not width * height:
            raise UnfitError(f"has no pixels: {width} x {height}")
        if _tiff_orientation(page) >= 5:
            height, width = width, height
        return Layout(width, height, page.samplesperpixel, alpha, 8 * page.dtype.itemsize, "TIFF")


def _read_tiff(file: File) -> np.ndarray:
    with _tiff(file) as opened:
        page = _only_page(opened)
        if not all(page.databytecounts) or not page.databytecounts:
            raise UnfitError("is a TIFF without the pixels of some strips or tiles: save it complete")
        values = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        return turn(values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel), _tiff_orientation(page))


def _tiff(file: File) -> Any:
    """Open a TIFF with tifffile."""
    import tifffile

    return tifffile.TiffFile(BytesIO(file.getvalue()) if isinstance(file, BytesIO) else file)


def _only_page(file: Any) -> Any:
    """Return the page of a TIFF; reduced copies and masks do not count."""
    found = None
    for page in islice(file.pages, MAX_PAGES):
        if int(page.subfiletype) & COPY_BITS:
            continue
        if found is not None:
            raise UnfitError(
                "is a TIFF of several pages: save it as one page; channels that are pages become bands with "
                "tifffile.imwrite(file, stack, photometric='minisblack', planarconfig='separate')"
            )
        found = page
    if found is None:
        raise ValueError("there is no page")
    return found


def _tiff_orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def turn(values: np.ndarray, turned: int) -> np.ndarray:
    """Return pixels `(H, W, ...)` upright, from their EXIF orientation, 1 (upright) to 8."""
    if turned in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if turned in (3, 4, 7, 8):
        values = values[::-1]
    if turned in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def resized(image: ChannelImage, side: int, interpolation: str) -> ChannelImage:
    """Return an image with its shorter side resized as torchvision resizes an RGB image, channel by channel.

    Channels of 16 bits are resized as floats and rounded.

    Args:
        image: the image.
        side: length of the shorter side in pixels.
        interpolation: `bilinear`, `bicubic` or `nearest`.
    """
    short, long = sorted(image.size)
    other = int(side * long / short)
    size = (side, other) if image.width <= image.height else (other, side)
    if size == image.size:
        return image
    how = Image.Resampling[interpolation.upper()]
    found = np.empty((size[1], size[0], image.values.shape[2]), image.values.dtype)
    for channel in range(found.shape[2]):
        values = np.ascontiguousarray(image.values[..., channel])
        if values.dtype == np.uint8:
            found[..., channel] = np.asarray(Image.fromarray(values).resize(size, how))
        else:
            floats = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))
            found[..., channel] = np.rint(floats).clip(0, np.iinfo(values.dtype).max)
    return ChannelImage(found)


def displayed(values: np.ndarray) -> np.ndarray:
    """Return an image as RGB of 8 bits for plots: its first three channels, or the first one as grey if it has two.

    Channels of 16 bits are stretched, each from its 1st to its 99th percentile.

    Args:
        values: `(H, W, N)` uint8 or uint16.

    Returns:
        `(H, W, 3)` uint8.
    """
    shown = values[..., :RGB] if values.shape[2] >= RGB else values[..., :1].repeat(RGB, -1)
    if shown.dtype == np.uint8:
        return shown
    low, high = np.percentile(shown, SHOWN, axis=(0, 1))
    return np.rint(255 * ((shown - low) / np.maximum(high - low, 1)).clip(0, 1)).astype(np.uint8)


def display_note(channels: int, bits: int) -> str:
    """Return what `displayed` shows of an image, for titles; empty for RGB of 8 bits."""
    if (channels, bits) == (RGB, 8):
        return ""
    which = "channels 1 to 3" if channels >= RGB else "channel 1"
    of = f" of {channels}" if channels not in (1, RGB) else ""
    return f"shown: {which}{of}" + (", stretched from 1st to 99th percentile" if bits > 8 else "")


def as_rgb(image: Raster) -> Image.Image:
    """Return an image for display; see `displayed`."""
    return Image.fromarray(displayed(image.values)) if isinstance(image, ChannelImage) else image


def encoded(values: np.ndarray) -> bytes:
    """Return the content of a file that `read_channels` reads, a PNG or a TIFF, with pixels `(H, W, N)`."""
    file = BytesIO()
    if values.dtype == np.uint8 and values.shape[2] == RGB:
        Image.fromarray(values).save(file, "PNG")
    else:
        import tifffile

        tifffile.imwrite(
            file, values if values.shape[2] > 1 else values[..., 0], compression="zlib",
            photometric="rgb" if values.shape[2] == RGB else "minisblack",
            planarconfig="contig" if values.shape[2] > 1 else None,
        )  # fmt: skip
    return file.getvalue()
