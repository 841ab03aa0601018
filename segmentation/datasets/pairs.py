"""Image files and mask files that belong together: matched by name, decoded, checked."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from segmentation.datasets.source import Picture
from segmentation.errors import InputError, listed
from segmentation.labels import VOID, Labels
from segmentation.names import is_plain
from segmentation.picture_files import LARGEST_FILE, decoded, pixels_in, refuse_deep

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
"""Endings of files that are taken for images or masks, in any case."""


@dataclass(frozen=True)
class PicturePairs:
    """A `Source` of image files with mask files.

    `classes` maps each mask value to its class index; values that it does not list are errors.
    """

    labels: Labels
    location: str
    files: Mapping[str, tuple[Path, Path]]
    classes: Mapping[int, int]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def identity(self) -> str:
        found = {name: [path.stat() for path in files] for name, files in self.files.items()}
        stats = [(name, *((each.st_size, each.st_mtime_ns) for each in both)) for name, both in found.items()]
        return repr((self.labels.names, sorted(self.classes.items()), stats))

    def pixels(self, index: int) -> int:
        image_file, _ = self.files[self.names[index]]
        return pixels_in(image_file)

    def read(self, index: int) -> Picture:
        image_file, mask_file = self.files[self.names[index]]
        image_bytes, mask_bytes = _content(image_file), _content(mask_file)
        with decoded(io.BytesIO(mask_bytes), mask_file) as picture:
            mask = _class_indices(_mask_values(picture, mask_file), self.classes, mask_file)
        with decoded(io.BytesIO(image_bytes), image_file) as picture:
            if mask.shape != (picture.height, picture.width):
                raise InputError(
                    f"{image_file} has {picture.width} x {picture.height} pixels but its mask {mask_file} has "
                    f"{mask.shape[1]} x {mask.shape[0]}; they must be equal"
                )
            refuse_deep(picture, image_file)
            image = _in_rgb(picture)
        digest = hashlib.sha256(hashlib.sha256(image_bytes).digest() + hashlib.sha256(mask_bytes).digest())
        return Picture(image, mask, digest.digest())


def match(image_dir: Path, mask_dir: Path, stems: Iterable[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """Match the images below one folder with the masks below another by their path without its ending.

    Args:
        image_dir: folder of images, searched with its subfolders.
        mask_dir: folder of masks, likewise.
        stems: the names to take, with or without the image's ending; None takes all, and then each image needs a mask
            and each mask an image.

    Raises:
        InputError: a folder is missing, two files share a name, or a file lacks its counterpart.
    """
    images, masks = _by_stem(image_dir), _by_stem(mask_dir)
    wanted = sorted(images | masks) if stems is None else [_stem(name, images, image_dir) for name in stems]
    for kind, found, folder in (("mask", masks, mask_dir), ("image", images, image_dir)):
        lacking = [stem for stem in wanted if stem not in found]
        if lacking:
            other = "listed" if stems is not None else "mask" if kind == "image" else "image"
            raise InputError(f"no {kind} in {folder} for {len(lacking)} {other} name(s): {listed(lacking)}")
    return {stem: (images[stem], masks[stem]) for stem in wanted}


def _stem(name: str, images: Mapping[str, Path], folder: Path) -> str:
    """A name without the ending, if it is that of an image's file."""
    stem = PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name
    return stem if images.get(stem) == folder / name else name


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if not is_plain(stem):
            raise InputError(
                f"{folder} holds {stem!r}, a name with control characters or bytes that are no UTF-8; rename it"
            )
        if stem in found:
            raise InputError(f"{found[stem]} and {path} have the same name but for the ending; keep one")
        found[stem] = path
    return found


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{file} is too large: a file of more than {LARGEST_FILE:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB; transparency is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow would warn
    return image if image.mode == "RGB" else image.convert("RGB")


def _mask_values(mask: Image.Image, file: Path) -> np.ndarray:
    if mask.format == "JPEG":
        raise InputError(f"mask {file} is a JPEG, which does not keep class indices exactly; save masks as png or tif")
    if mask.mode in ("L", "P", "I") or mask.mode.startswith("I;16"):
        return np.asarray(mask)
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    raise InputError(
        f"mask {file} is a colour picture (mode {mask.mode}); a mask holds one class index a pixel, "
        f"as a greyscale or palette image"
    )


def _class_indices(values: np.ndarray, classes: Mapping[int, int], file: Path) -> np.ndarray:
    """Turn mask values `(H, W)` into class indices `(H, W)` uint8; a value of no class is an error that counts it."""
    highest = max(max(classes), VOID)
    no_class = next((index for index in range(256) if index not in classes.values()), None)
    known, table = np.zeros(highest + 1, bool), np.full(highest + 1, no_class or 0, np.uint8)
    known[list(classes)] = True
    table[list(classes)] = list(classes.values())
    if values.dtype == np.uint8 and no_class is not None:
        indices = _translated(values, table[:256])
        if not (indices == no_class).any():
            return indices
    right = (values >= 0) & (values <= highest)
    right &= known[np.where(right, values, 0)]
    if not right.all():
        strange, counts = np.unique(values[~right], return_counts=True)
        told = listed(f"{value} ({count} pixels)" for value, count in zip(strange, counts, strict=True))
        raise InputError(f"mask {file} has values that are no class: {told}; known values: {_ranges(classes)}")
    return table[values]


def _translated(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table[values]` for arrays of bytes, which numpy would first make eight times as large."""
    return np.frombuffer(values.tobytes().translate(table.tobytes()), table.dtype).reshape(values.shape)


def _ranges(values: Iterable[int]) -> str:
    """Write sorted whole numbers with runs shortened: `0-20, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
