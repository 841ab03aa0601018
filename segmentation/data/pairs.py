"""Matches image files with mask files by name, and decodes and checks each pair."""

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
from segmentation.io.decoding import MAX_FILE_BYTES, decoded, pixel_count, read_image, read_mask
from segmentation.io.folders import is_image, walk
from segmentation.io.names import composed, is_plain
from segmentation.io.pixels import orientation

READING_VERSION = 2
"""Part of the data's identity. Raise it when files are decoded differently, so that cached splits are built again."""
NAME_MARKS = re.compile(
    r"masks?|gt|ground|truth|groundtruth|labels?|lbl|(label|train|labeltrain|instance)ids?|colou?rs?|segm?|segmentation|"
    r"annotations?|annot?|anno|gtfine|gtcoarse|leftimg8bit|images?|imgs?|photo|rgb|l|jpe?g|png|tiff?|bmp|webp"
)
"""Parts of names, in lower case, that tools add to mask and image files."""


@dataclass(frozen=True)
class ImagePairs:
    """A `Source` of image files with mask files."""

    labels: Classes
    location: str
    files: Mapping[str, tuple[Path, Path]]
    """Image file and mask file by name."""
    class_of_value: Mapping[int, int]
    """Class index for each mask value. Other mask values are errors."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def identity(self) -> str:
        stats = {name: [path.stat() for path in pair] for name, pair in self.files.items()}
        stamps = [(name, *((each.st_size, each.st_mtime_ns) for each in pair)) for name, pair in stats.items()]
        return repr((READING_VERSION, self.labels.names, sorted(self.class_of_value.items()), stamps))

    def pixels(self, index: int) -> int:
        image_file, _ = self.files[self.names[index]]
        return pixel_count(image_file)

    def read(self, index: int) -> LabelledImage:
        image_file, mask_file = self.files[self.names[index]]
        image_bytes, mask_bytes = _content(image_file), _content(mask_file)
        values = read_mask(io.BytesIO(mask_bytes), f"mask {mask_file}")
        mask = _class_indices(values, self.class_of_value, mask_file)
        image = read_image(io.BytesIO(image_bytes), image_file)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"{image_file} has {image.width} x {image.height} pixels but its mask {mask_file} has "
                f"{mask.shape[1]} x {mask.shape[0]}; both must have the same size"
                f"{self._orientation_hint(index, image.size, mask.shape)}"
            )
        digest = hashlib.sha256(hashlib.sha256(image_bytes).digest() + hashlib.sha256(mask_bytes).digest())
        return LabelledImage(image, mask, digest.digest())

    def _orientation_hint(self, index: int, size: tuple[int, int], shape: tuple[int, ...]) -> str:
        """End of the message about unequal sizes if only the EXIF orientations make them unequal; otherwise empty."""
        orientations = []
        for file in self.files[self.names[index]]:
            with decoded(file, file) as image:
                orientations.append(orientation(image))
        if shape != size or sum(each >= 5 for each in orientations) != 1:
            return ""
        return (
            f". Their EXIF orientations are {orientations[0]} and {orientations[1]} (1 is upright), and only these "
            f"make the sizes differ. Save the image and its mask upright, without an EXIF orientation"
        )


def match(image_dir: Path, mask_dir: Path, stems: Iterable[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """Match the images below one folder with the masks below another folder by path without the ending.

    Names that differ only in their Unicode form (NFC, NFD) are equal.

    Args:
        image_dir: folder of images, including its sub-folders.
        mask_dir: folder of masks, including its sub-folders.
        stems: names to match, with or without the image's ending. None matches all files; then every image needs a
            mask and every mask needs an image.

    Raises:
        InputError: a folder is missing, two files have the same name, or a file has no counterpart.
    """
    images, masks = files_by_stem(image_dir), files_by_stem(mask_dir)
    wanted = sorted(images | masks) if stems is None else [stem_of(name, images) for name in stems]
    for kind, found, folder, others in (("mask", masks, mask_dir, images), ("image", images, image_dir, masks)):
        missing = [stem for stem in wanted if stem not in found]
        if missing:
            other = "listed" if stems is not None else "mask" if kind == "image" else "image"
            matched = others.keys() if stems is None else set(wanted)
            unmatched = {stem: file for stem, file in found.items() if stem not in matched}
            raise InputError(
                f"no {kind} in {folder} for {len(missing)} {other} name(s): {listed(missing)}"
                f"{_near_miss(missing, unmatched)}"
            )
    return {stem: (images[stem], masks[stem]) for stem in wanted}


def stem_of(name: str, images: Mapping[str, Path]) -> str:
    """Return a listed name in the form of `files_by_stem`: composed, and without the ending of its image file."""
    path = PurePosixPath(composed(name))
    stem = path.with_suffix("").as_posix() if path.name else name
    found = images.get(stem)
    return stem if found is not None and composed(found.name) == path.name else path.as_posix()


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder by relative path without the ending, in Unicode's composed form.

    Raises:
        InputError: the folder is missing, a name is unprintable, or two files have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(parent / name for parent, _, names in walk(folder) for name in names if is_image(name)):
        stem = composed(path.relative_to(folder).with_suffix("").as_posix())
        if not is_plain(stem):
            raise InputError(f"{folder} holds {stem!r}, whose name has control characters or is not UTF-8; rename it")
        if stem in found:
            raise InputError(
                f"{found[stem]} and {path} differ only in the ending or the Unicode form of their names; keep one"
            )
        found[stem] = path
    return found


def _near_miss(missing: Iterable[str], unmatched: Mapping[str, Path]) -> str:
    """End of the message about missing files: an unmatched file with a similar name; empty if there is none."""
    similar: dict[str, str] = {}
    for stem in sorted(unmatched, key=lambda stem: ("color" in stem.lower() or "instance" in stem.lower(), stem)):
        similar.setdefault(_without_marks(stem), stem)
    for stem in missing:
        if _without_marks(stem) in similar:
            file = unmatched[similar[_without_marks(stem)]]
            return (
                f". Is {file} meant for {stem!r}? Names may differ only in the ending: rename it to "
                f"{PurePosixPath(stem).name}{file.suffix}, and the other files likewise"
            )
    return ""


def _without_marks(stem: str) -> str:
    """A name in lower case without folders, separators and `NAME_MARKS`."""
    words = re.findall(r"[^\W_]+", PurePosixPath(stem).name.casefold())
    return "_".join(word for word in words if not NAME_MARKS.fullmatch(word)) or "_".join(words)


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file} is too large: the file has more than {MAX_FILE_BYTES:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def _class_indices(values: np.ndarray, class_of_value: Mapping[int, int], file: Path) -> np.ndarray:
    """Convert mask values `(H, W)` to class indices `(H, W)` uint8. Raises an `InputError` for unknown values."""
    highest = max(max(class_of_value), VOID)
    unused = next((index for index in range(256) if index not in class_of_value.values()), None)
    is_known, table = np.zeros(highest + 1, bool), np.full(highest + 1, unused or 0, np.uint8)
    is_known[list(class_of_value)] = True
    table[list(class_of_value)] = list(class_of_value.values())
    if values.dtype == np.uint8 and unused is not None:
        indices = _translated(values, table[:256])
        if not (indices == unused).any():
            return indices
    is_right = (values >= 0) & (values <= highest)
    is_right &= is_known[np.where(is_right, values, 0)]
    if not is_right.all():
        unknown, counts = np.unique(values[~is_right], return_counts=True)
        found = listed(f"{value} ({count} pixels)" for value, count in zip(unknown, counts, strict=True))
        raise InputError(f"mask {file} has values of no class: {found}; known values: {_ranges(class_of_value)}")
    return table[values]


def _translated(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return `table[values]` for arrays of bytes; numpy would convert `values` to 8 bytes per pixel first."""
    return np.frombuffer(values.tobytes().translate(table.tobytes()), table.dtype).reshape(values.shape)


def _ranges(values: Iterable[int]) -> str:
    """Format integers as ranges, such as `0-20, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
