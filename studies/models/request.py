"""Decode the images of a request to a served model: whatever MLflow passes on in, images out.

This file is copied into every logged model (`flavor.SHIPPED`) and imports only other copied modules.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segmentation.io.channels import ChannelImage, Raster, check_layout, layout_of, read_channels
from segmentation.io.pixels import FORMATS, RGB, UnfitError, color_image

MAX_PIXELS = 2**24
"""Largest number of pixels in a request, at the images' own size and at the model's input size."""
MAX_BYTES = 5 * MAX_PIXELS
"""Largest number of bytes in the files of a request: more than `MAX_PIXELS` uncompressed pixels take."""
MAX_IMAGES = 1024
"""Largest number of images in a request: each answer takes some hundred bytes, however small the image."""
SPACES = b" \t\n\r\v\f"
COLUMN = "image"
"""The field of a request, or the column of a data frame, that holds images."""


class RequestError(ValueError):
    """A request cannot be answered; the message names the image and what to do."""


def listed_images(data: Any) -> list[Any]:
    """Return the images in a request as a list, still encoded.

    Args:
        data: a data frame, one of its columns, or what MLflow makes of JSON.

    Raises:
        RequestError: there are no images, too many, or too many bytes.
    """
    images = _listed(data)
    if not images:
        raise RequestError("there is no image: the list is empty")
    if len(images) > MAX_IMAGES:
        raise RequestError(f"{len(images)} images are too many: a request may have {MAX_IMAGES}")
    _check_bytes(images)
    return images


class Expected(NamedTuple):
    """The images that a model takes."""

    channels: int = RGB
    bits: int = 8

    @property
    def is_rgb(self) -> bool:
        """Whether Pillow reads them."""
        return self == (RGB, 8)

    @property
    def pixels(self) -> str:
        """Shape and type of their pixels, for messages."""
        return f"pixels (H, W, {self.channels}) uint{self.bits}"


class Opened(NamedTuple):
    """A file whose header is read, of a model that does not take RGB images of 8 bits."""

    content: bytes
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as of a `PIL.Image`."""
        return self.width, self.height


def open_image(image: Any, label: str, expected: Expected = Expected()) -> Raster | Opened:  # noqa: B008  immutable
    """Open an image. Its size is known then; the pixels of a file are decoded later by `decode_image`.

    Args:
        image: base64 text or bytes of a file, pixels `(H, W, N)`, or a `PIL.Image`.
        label: how messages name the image, such as `image 2 of 3`.
        expected: the images that the model takes.

    Raises:
        RequestError: it is not an image, or not one that the model takes.
    """
    image = _unwrapped(image)
    if isinstance(image, Image.Image) and image.width and image.height:
        if expected.is_rgb:
            return image
        image = np.asarray(image).reshape(image.height, image.width, -1)
    if isinstance(image, str):
        image = _decode_base64(image, label)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _open_file(bytes(image), label, expected)
    if isinstance(image, (list, tuple)):
        return _from_pixels(_array(image, label), label, expected)
    if isinstance(image, np.ndarray):
        if image.dtype.kind == "u" and image.dtype.itemsize < expected.bits // 8:
            raise RequestError(
                f"{label}: the pixels are {image.dtype}, and the model takes {expected.pixels}: convert them"
            )
        return _from_pixels(image, label, expected)
    raise RequestError(
        f"{label}: a value of type {type(image).__name__} is not an image: send the base64 of a PNG or JPEG file, or "
        f"{expected.pixels}"
    )


def decode_image(image: Raster | Opened, label: str, expected: Expected = Expected()) -> Raster:  # noqa: B008
    """Return an image, read as in training and prediction.

    Raises:
        RequestError: the file is damaged, or its pixels cannot be converted without loss.
    """
    try:
        if isinstance(image, Opened):
            return read_channels(BytesIO(image.content), *expected)
        return image if isinstance(image, ChannelImage) else color_image(image)
    except UnfitError as error:
        raise RequestError(f"{label}: it {error}") from error
    except Exception as error:  # Pillow raises nearly any type for a damaged file
        raise RequestError(f"{label}: the image is damaged: {error!s:.80}") from error


def _listed(data: Any) -> list[Any]:
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        data = data.to_dict(orient="list")
    elif hasattr(data, "to_list"):
        data = data.to_list()
    if isinstance(data, dict):
        data = _column(data)
        if isinstance(data, dict):
            raise RequestError('the field "image" holds fields again: it must hold images')
        return _listed(data)
    if isinstance(data, np.ndarray) and data.dtype.kind in "OSU":
        data = data.tolist()
    if isinstance(data, np.ndarray):
        return [data] if data.ndim < 4 else list(data)
    if isinstance(data, (list, tuple)):
        if _depth(data) == 3:
            return [data]
        return _flat(_column(image) if isinstance(image, dict) else image for image in data)
    return [data]


def _flat(images: Iterable[Any]) -> list[Any]:
    """Return the images, and of each list of texts its items: MLflow makes one row of a field with such a list."""
    flat: list[Any] = []
    for image in images:
        is_texts = isinstance(image, (list, tuple)) and all(isinstance(each, (str, np.str_)) for each in image)
        flat += image if is_texts else [image]
    return flat


def _column(row: dict[Any, Any]) -> Any:
    """Return the value of `image`, or of the one column of a data frame without column names."""
    for name in (COLUMN, 0):
        if name in row:
            return row[name]
    names = ", ".join(f"{str(name)!r:.40}" for name in list(row)[:5])
    raise RequestError(
        f'there is no field "image"{f" among {names}" if names else ""}: send {{"inputs": ["BASE64", ...]}}, or a data '
        f"frame with a column image"
    )


def _depth(data: Any) -> int:
    """Return how many lists the first number is nested in; 0 if there is no number."""
    depth = 0
    while isinstance(data, (list, tuple)) and data:
        data, depth = data[0], depth + 1
    return depth if isinstance(data, (int, float)) else 0


def _check_bytes(images: Sequence[Any]) -> None:
    """Refuse files and texts that are too long in total, before any is decoded."""
    files = [image for image in map(_unwrapped, images) if isinstance(image, (str, bytes, bytearray, memoryview))]
    total = sum(len(file) * 3 // 4 if isinstance(file, str) else len(file) for file in files)
    if total > MAX_BYTES:
        raise RequestError(
            f"the {len(images)} images have {total} bytes in total; a request may have {MAX_BYTES}: send fewer images, "
            f"or compress them"
        )


def _unwrapped(image: Any) -> Any:
    """Return the item of an array without dimensions: MLflow wraps texts in one."""
    return image.item() if isinstance(image, np.ndarray) and image.ndim == 0 else image


def _array(rows: Sequence[Any], label: str) -> np.ndarray:
    """Return nested lists as an array. Of texts among them, numpy alone would make an array as wide as the longest."""
    wrong = f"{label}: the lists are not pixels (H, W, 3): they differ in length or depth"
    width = len(rows[0]) if rows and isinstance(rows[0], (list, tuple, np.ndarray)) else 0
    if len(rows) * width > MAX_PIXELS:
        raise RequestError(f"{label}: {width} x {len(rows)} pixels are too many: an image may have {MAX_PIXELS}")
    try:
        values = np.array(rows, dtype=object)
        if values.ndim != 3:
            raise RequestError(
                wrong if width else f"{label}: lists of shape {values.shape} are not an image: it must be (H, W, 3)"
            )
        types = set(map(type, values.ravel()))
        if not all(issubclass(each, (int, float, np.number, np.bool_)) for each in types):
            raise RequestError(wrong)
        are_integers = all(issubclass(each, (int, np.integer)) and each is not bool for each in types)
        return values.astype(np.int64 if are_integers else bool if types <= {bool, np.bool_} else np.float64)
    except RequestError:
        raise
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise RequestError(wrong) from error


def _decode_base64(text: str, label: str) -> bytes:
    """Decode base64; a `data:` prefix and line breaks are allowed."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # `translate` and not `split`, whose list of parts may take thirty times as much memory
        return base64.b64decode(text.encode("ascii").translate(None, SPACES), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"{label}: the text is not base64 ({error!s:.80}): send the content of a file, not a path or a URL"
        ) from error


def _open_file(content: bytes, label: str, expected: Expected) -> Image.Image | Opened:
    try:
        if not expected.is_rgb:
            layout = layout_of(BytesIO(content))
            check_layout(layout, *expected)
            return Opened(content, layout.width, layout.height)
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(f"{label}: it has too many pixels; an image may have {MAX_PIXELS}") from error
    except UnfitError as error:
        raise RequestError(f"{label}: it {error}") from error
    except Exception as error:  # Pillow raises nearly any type for a damaged file
        _check_channels(content, label, expected)
        raise RequestError(
            f"{label}: the {len(content)} bytes are not a readable image; formats are {', '.join(FORMATS)}"
        ) from error


def _check_channels(content: bytes, label: str, expected: Expected) -> None:
    """Raise a `RequestError` if a file that Pillow does not know is a TIFF of other channels or bits."""
    try:
        check_layout(layout_of(BytesIO(content)), *expected)
    except UnfitError as error:
        raise RequestError(f"{label}: it {error}") from error
    except Exception:  # it is no TIFF, or damaged, or this server has no tifffile
        return


def _from_pixels(pixels: np.ndarray, label: str, expected: Expected) -> Raster:
    channels, highest_value = expected.channels, 2**expected.bits - 1
    if pixels.ndim != 3 or pixels.shape[2] != channels or not pixels.size:
        raise RequestError(f"{label}: an array of shape {pixels.shape} is not an image: it must be (H, W, {channels})")
    if pixels.dtype.kind not in "iu":
        raise RequestError(f"{label}: the pixels are {pixels.dtype}: they must be integers from 0 to {highest_value}")
    lowest, highest = pixels.min(), pixels.max()
    if lowest < 0 or highest > highest_value:
        raise RequestError(
            f"{label}: the pixels range from {lowest} to {highest}: they must be within 0 to {highest_value}"
        )
    values = pixels.astype(np.uint8 if expected.bits == 8 else np.uint16)
    return Image.fromarray(values) if expected.is_rgb else ChannelImage(values)
