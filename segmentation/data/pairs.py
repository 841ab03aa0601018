"""Image files and mask files that belong together: matched by name, decoded, checked."""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from segmentation.classes import VOID, Classes
from segmentation.data.source import LabelledImage
from segmentation.errors import InputError, listed
from segmentation.io.image_files import LARGEST_FILE, SUFFIXES, decoded, pixels_in, walk
from segmentation.io.names import composed, is_plain
from segmentation.io.pixels import color_image, mask_values, orientation

READING = 2
"""Raised when files are read otherwise than before, so that what was prepared from them is prepared again."""
MARKS = re.compile(
    r"masks?|gt|ground|truth|groundtruth|labels?|lbl|(label|train|labeltrain|instance)ids?|colou?rs?|segm?|segmentation|"
    r"annotations?|annot?|anno|gtfine|gtcoarse|leftimg8bit|images?|imgs?|photo|rgb|l|jpe?g|png|tiff?|bmp|webp"
)
"""Parts of names, in lower case, by which tools tell a mask from its image."""


@dataclass(frozen=True)
class ImagePairs:
    """A `Source` of image files with mask files.

    `classes` maps each mask value to its class index; values that it does not list are errors.
    """

    labels: Classes
    location: str
    files: Mapping[str, tuple[Path, Path]]
    classes: Mapping[int, int]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def identity(self) -> str:
        found = {name: [path.stat() for path in files] for name, files in self.files.items()}
        stats = [(name, *((each.st_size, each.st_mtime_ns) for each in both)) for name, both in found.items()]
        return repr((READING, self.labels.names, sorted(self.classes.items()), stats))

    def pixels(self, index: int) -> int:
        image_file, _ = self.files[self.names[index]]
        return pixels_in(image_file)

    def read(self, index: int) -> LabelledImage:
        image_file, mask_file = self.files[self.names[index]]
        image_bytes, mask_bytes = _content(image_file), _content(mask_file)
        with decoded(io.BytesIO(mask_bytes), f"mask {mask_file}") as picture:
            mask = _class_indices(mask_values(picture), self.classes, mask_file)
        with decoded(io.BytesIO(image_bytes), image_file) as picture:
            image = color_image(picture)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"{image_file} has {image.width} x {image.height} pixels but its mask {mask_file} has "
                f"{mask.shape[1]} x {mask.shape[0]}; they must be equal{self._turned(index, image.size, mask.shape)}"
            )
        digest = hashlib.sha256(hashlib.sha256(image_bytes).digest() + hashlib.sha256(mask_bytes).digest())
        return LabelledImage(image, mask, digest.digest())

    def _turned(self, index: int, size: tuple[int, int], shape: tuple[int, ...]) -> str:
        """What to add about an image and a mask that do not fit as their EXIF orientations turn them."""
        turned = []
        for file in self.files[self.names[index]]:
            with decoded(file, file) as picture:
                turned.append(orientation(picture))
        if shape != size or sum(each >= 5 for each in turned) != 1:
            return ""
        return (
            f". Their EXIF orientations are {turned[0]} and {turned[1]} (1 is upright), and each is turned as its own "
            f"says: without that they would be equal. Save the image and its mask both as they are seen, without an "
            f"EXIF orientation"
        )


def match(image_dir: Path, mask_dir: Path, stems: Iterable[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """Match the images below one folder with the masks below another by their path without its ending.

    Args:
        image_dir: folder of images, searched with its subfolders.
        mask_dir: folder of masks, likewise.
        stems: the names to take, with or without the image's ending; None takes all, and then each image needs a mask
            and each mask an image. Names that differ in their Unicode form alone (NFC, NFD) are the same.

    Raises:
        InputError: a folder is missing, two files share a name, or a file lacks its counterpart.
    """
    images, masks = files_by_stem(image_dir), files_by_stem(mask_dir)
    wanted = sorted(images | masks) if stems is None else [stem_of(name, images) for name in stems]
    for kind, found, folder, used in (("mask", masks, mask_dir, images), ("image", images, image_dir, masks)):
        lacking = [stem for stem in wanted if stem not in found]
        if lacking:
            other = "listed" if stems is not None else "mask" if kind == "image" else "image"
            taken = used.keys() if stems is None else set(wanted)
            others = {stem: file for stem, file in found.items() if stem not in taken}
            raise InputError(
                f"no {kind} in {folder} for {len(lacking)} {other} name(s): {listed(lacking)}"
                f"{_near_miss(lacking, others)}"
            )
    return {stem: (images[stem], masks[stem]) for stem in wanted}


def stem_of(name: str, images: Mapping[str, Path]) -> str:
    """Return a listed name as `files_by_stem` spells it: composed, and without the ending if it is an image's."""
    path = PurePosixPath(composed(name))
    stem = path.with_suffix("").as_posix() if path.name else name
    found = images.get(stem)
    return stem if found is not None and composed(found.name) == path.name else path.as_posix()


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder by their path in it without the ending, in Unicode's composed form.

    Raises:
        InputError: the folder is missing, or a name cannot be used or is there twice.
    """
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(place / name for place, _, names in walk(folder) for name in names):
        if path.suffix.lower() not in SUFFIXES:
            continue
        stem = composed(path.relative_to(folder).with_suffix("").as_posix())
        if not is_plain(stem):
            raise InputError(
                f"{folder} holds {stem!r}, a name with control characters or bytes that are no UTF-8; rename it"
            )
        if stem in found:
            raise InputError(
                f"{found[stem]} and {path} have the same name but for the ending or its Unicode form; keep one"
            )
        found[stem] = path
    return found


def _near_miss(lacking: Iterable[str], others: Mapping[str, Path]) -> str:
    """What to add about a file that is called nearly as one that lacks its counterpart; empty if there is none."""
    near: dict[str, str] = {}
    for stem in sorted(others, key=lambda stem: ("color" in stem.lower() or "instance" in stem.lower(), stem)):
        near.setdefault(_without_marks(stem), stem)
    for stem in lacking:
        if _without_marks(stem) in near:
            file = others[near[_without_marks(stem)]]
            return (
                f". Is {file} meant for {stem!r}? Names must be equal but for the ending: rename it to "
                f"{PurePosixPath(stem).name}{file.suffix}, and all others like it"
            )
    return ""


def _without_marks(stem: str) -> str:
    """A name in lower case without its folders, separators and what marks it as a mask or an image."""
    words = re.findall(r"[^\W_]+", PurePosixPath(stem).name.casefold())
    return "_".join(word for word in words if not MARKS.fullmatch(word)) or "_".join(words)


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{file} is too large: a file of more than {LARGEST_FILE:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


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
