"""Reads one image and its mask once, and keeps what the statistics and checks need: about 4 kB."""

import hashlib
import io
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as F

from segmentation.config import RGB, DataConfig
from segmentation.data.pairs import content_of
from segmentation.data.preparation import resized_mask, too_small
from segmentation.data.source import Source
from segmentation.data.split import histogram
from segmentation.errors import InputError
from segmentation.inspection.hashes import difference_hash, grey_copy
from segmentation.io.channels import ChannelImage, Raster, as_array, as_rgb, bits_of, counted, is_of_pillow, resized
from segmentation.io.decoding import decoded, image_layout, read_image, read_mask
from segmentation.io.folders import is_image
from segmentation.io.pixels import bits_per_channel, color_image, orientation

REDUCED = 64
"""Side in pixels to which a JPEG may be reduced while it is decoded, and at which colours are measured."""
GREY_TOLERANCE = 2
"""Largest difference between the channels of a grey image that is stored in colour."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """How a file stores its pixels."""

    format: str
    mode: str
    bits: int
    orientation: int
    """EXIF orientation, 1 (upright) to 8."""
    channels: int = RGB
    """Channels without transparency; 3 for all files that are read as RGB."""

    def __str__(self) -> str:
        return f"{self.format}, {self.mode}, {self.bits} bits"


@dataclass(frozen=True, slots=True)
class Colours:
    """Channels of an image, in [0, 1], measured on a copy of about `REDUCED` pixels."""

    mean: tuple[float, ...]
    square: tuple[float, ...]
    """Mean of the squares."""
    is_grey: bool
    contrast: float
    """Standard deviation of the grey values."""


NONE = (0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class InspectedImage:
    """What is known of one image and its mask. Parts that cannot be read are None or empty."""

    name: str
    faults: tuple[str, ...] = ()
    """Why training refuses the image."""
    size: tuple[int, int] | None = None
    """Width and height, upright."""
    image_kind: FileKind | None = None
    mask_kind: FileKind | None = None
    image_digest: bytes = b""
    """Hash of the image file."""
    mask_digest: bytes = b""
    """Hash of the mask's pixels."""
    hash: int = 0
    copy: bytes = b""
    """Small grey copy."""
    colours: Colours | None = None
    counts: tuple[tuple[int, int, int, int], ...] = ()
    """Each mask value, with its pixels at the mask's own size, after `resize`, and after `resize` and `crop`.

    Not an array: many small arrays among large freed images would keep the freed memory from being used again.
    """
    prepared: tuple[int, int] | None = None
    """Width and height after `resize` and `crop`."""

    @property
    def values(self) -> np.ndarray:
        """The classes of the mask, and 255 for void, `(K,)` uint8."""
        return np.array([value for value, *_ in self.counts], np.uint8)

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each value at own size, after `resize`, and after `resize` and `crop`, `(3, K)` int64."""
        return np.array([pixels for _, *pixels in self.counts], np.int64).reshape(-1, 3).T

    @property
    def total(self) -> int:
        """Number of pixels of the mask."""
        return sum(pixels for _, pixels, _, _ in self.counts)

    def pixels_of(self, value: int) -> tuple[int, int, int]:
        """Return the pixels of one value, as in `pixels`; zeros if the mask does not hold it."""
        return next(((own, resized, cropped) for each, own, resized, cropped in self.counts if each == value), NONE)


def inspect_image(source: Source, index: int, config: DataConfig, whole: bool = False) -> InspectedImage:
    """Return what is known of one image. What is wrong with its files is among the `faults`.

    Args:
        source: the split.
        index: of the image.
        config: how images are prepared.
        whole: whether training or scoring takes all parts of the image, so that the crop loses none.
    """
    found = InspectedImage(source.names[index])
    inner, place = _innermost(source, index)
    files = _files(inner, place)
    try:
        if files and hasattr(inner, "mask"):
            found, mask = _from_files(found, inner, place, files)
        else:
            read = source.read(index)
            mask, digest = read.mask, _digest(read.image.tobytes())
            found = replace(_with_pixels(found, read.image), size=read.image.size, image_digest=digest)
            if files and is_image(files[0].name):
                found = replace(found, image_kind=_kind(files[0]) or _kind_of_bands(files[0]))
    except InputError as error:
        if files and is_image(files[0].name):
            found = replace(found, image_kind=_kind_of_bands(files[0]))
        return replace(found, faults=(str(error),))
    return found if mask is None else _with_mask(found, mask, config, whole)


def _innermost(source: Any, index: int) -> tuple[Any, int]:
    """Return the source that a subset belongs to, and the image's index there."""
    while hasattr(source, "whole"):
        source, index = source.whole, source.indices[index]
    return source, index


def _files(source: Any, index: int) -> tuple[Path, ...]:
    """Return the image file and, if there is one, the mask's file; empty for a source without image files."""
    files = getattr(source, "files", {}).get(source.names[index], ())
    return tuple(file for file in files if isinstance(file, Path))


def files_of(source: Source, index: int) -> tuple[Path, ...]:
    """Return the files of an image, the image's first; empty for a source without image files."""
    return _files(*_innermost(source, index))


def _from_files(
    found: InspectedImage, source: Any, index: int, files: tuple[Path, ...]
) -> tuple[InspectedImage, np.ndarray | None]:
    """Read image and mask, each for itself, so that the faults of both are found. A JPEG is decoded at reduced size."""
    faults, mask = [], None
    try:
        found = _with_image_file(found, files[0], getattr(source, "channels", RGB))
    except InputError as error:
        faults.append(str(error))
        found = replace(found, image_kind=_kind_of_bands(files[0]))
    try:
        mask = source.mask(index)
    except InputError as error:
        faults.append(f"{error}{_hint(files)}")
    if len(files) > 1 and is_image(files[1].name):
        found = replace(found, mask_kind=_kind(files[1]))
    if mask is not None and found.size is not None and mask.shape != found.size[::-1]:
        try:
            source.read(index)  # raises the message that training would raise
        except InputError as error:
            faults.append(str(error))
        mask = None
    return replace(found, faults=tuple(faults)), mask


def _with_image_file(found: InspectedImage, file: Path, channels: int) -> InspectedImage:
    content = content_of(file)
    if channels != RGB or not is_of_pillow(io.BytesIO(content)):
        raster = read_image(io.BytesIO(content), file, channels)
        found = replace(found, size=raster.size, image_kind=_kind_of_bands(file), image_digest=_digest(content))
        return _with_pixels(found, raster)
    with decoded(io.BytesIO(content), file) as image:
        size, mode, bits = image.size, image.mode, bits_per_channel(image)
        image.draft(None, (REDUCED, REDUCED))  # changes nothing but the size, and only that of a JPEG
        turned = orientation(image)
        upright = color_image(image)
        kind = FileKind(str(image.format), mode, bits, turned)
    found = replace(found, size=size[::-1] if turned >= 5 else size, image_kind=kind, image_digest=_digest(content))
    return _with_pixels(found, upright)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _kind_of_bands(file: Path) -> FileKind | None:
    """Return how a file that is not read as RGB stores its pixels; None if its header cannot be read."""
    with suppress(InputError):
        layout = image_layout(file, file)
        return FileKind(layout.format, counted(layout.channels), layout.bits, 1, layout.channels - layout.alpha)
    return None


def _with_pixels(found: InspectedImage, image: Raster) -> InspectedImage:
    """Add hash and colours of an image."""
    grey = as_rgb(image).convert("L")
    return replace(found, hash=difference_hash(grey), copy=grey_copy(grey), colours=_colours(image))


def _colours(image: Raster) -> Colours:
    if isinstance(image, ChannelImage):
        return _colours_of_bands(image)
    reduced = np.asarray(image.resize((REDUCED, REDUCED), Image.Resampling.BOX), np.int16).reshape(-1, 3)
    channels = np.ascontiguousarray(reduced.T)  # numpy reduces long rows much faster than short ones
    red, green, blue = channels
    is_grey = abs(red - green).max() <= GREY_TOLERANCE and abs(green - blue).max() <= GREY_TOLERANCE
    values = channels.astype(np.float32) / 255
    mean, square = values.mean(axis=1).tolist(), (values**2).mean(axis=1).tolist()
    return Colours(tuple(mean), tuple(square), bool(is_grey), float(values.sum(axis=0).std() / 3))


def _colours_of_bands(image: ChannelImage) -> Colours:
    channels = as_array(resized(image, REDUCED, "bilinear")).reshape(-1, image.values.shape[2]).T
    values = channels.astype(np.float32) / (2 ** bits_of(image.values) - 1)
    mean, square = values.mean(axis=1).tolist(), (values**2).mean(axis=1).tolist()
    spread = float(np.asarray(as_rgb(image), np.float32).mean(axis=2).std() / 255)
    return Colours(tuple(mean), tuple(square), is_grey=False, contrast=spread)


def _kind(file: Path) -> FileKind | None:
    """Return how a file stores its pixels, from its header; None if it cannot be opened."""
    try:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind = (str(image.format), image.mode, bits_per_channel(image))
            image.draft(None, (REDUCED, REDUCED))
            turned = orientation(image) if b"eXIf" in content or image.format != "PNG" else 1
            return FileKind(*kind, turned)
    except Exception:  # decoders raise nearly any exception for damaged files; reading it has reported that
        return None


def _with_mask(found: InspectedImage, mask: np.ndarray, config: DataConfig, whole: bool) -> InspectedImage:
    """Add the pixels of each class before and after preparation."""
    counts = [histogram(mask)]
    prepared = resized_mask(mask, config)
    counts.append(prepared.histogram())
    faults = found.faults
    if refusal := too_small(prepared.size, config, found.name):
        faults += (refusal,)
    elif config.crop is not None and not whole:
        prepared = F.center_crop(prepared, [config.crop])
    counts.append(prepared.histogram())
    present = tuple((value, *stages) for value, stages in enumerate(zip(*counts, strict=True)) if stages[0])
    return replace(
        found, faults=faults, size=found.size or mask.shape[::-1], prepared=prepared.size,
        counts=present,
        mask_digest=_digest(repr(mask.shape).encode() + mask.tobytes()),
    )  # fmt: skip


MANY_COLOURS = 40
"""A mask of more colours than this is no clean mask of classes."""
RARE_VALUES, RARE_FRACTION = 8, 0.1
"""Compression and interpolation leave at least so many values that together have at most this part of the pixels."""


def _hint(files: tuple[Path, ...]) -> str:
    """Return what a mask that cannot be read looks like, for the end of a message; empty if that is not clear."""
    if len(files) < 2 or not is_image(files[1].name):
        return ""
    try:
        with decoded(files[1]) as image:
            is_colour = image.mode in ("RGB", "RGBA")
            colours = image.convert("RGB").getcolors(2**16) if is_colour else None
        if is_colour and colours is not None and len(colours) <= MANY_COLOURS:
            return f". Its {len(colours)} colours look like one for each class"
        if is_colour:
            return ". It has so many colours that it looks like a photo, or like a mask that was saved as JPEG"
        _, counts = np.unique(read_mask(files[1]), return_counts=True)
    except InputError:
        return ""
    rare = np.cumsum(np.sort(counts)) <= RARE_FRACTION * counts.sum()
    if np.count_nonzero(rare) < RARE_VALUES:
        return ""
    return f". It has {len(counts)} values, most in few pixels, as after saving as JPEG or resizing with interpolation"


def without_names(message: str, files: Iterable[Path], name: str) -> str:
    """Return a message about an image without its name and the names of its files."""
    for file in files:
        message = message.replace(str(file), "")
    return re.sub(r"\s+", " ", message.removeprefix(f"{name} ")).strip()
