"""Matches image files with mask files by name, and decodes and checks each pair."""

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from segmentation.classes import Classes
from segmentation.data.masks import read_indices
from segmentation.data.source import LabelledImage, MissingDataError
from segmentation.errors import InputError, counted, listed
from segmentation.io.decoding import MAX_FILE_BYTES, decoded, pixel_count, read_image
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
    files: Mapping[str, tuple[Path, Path | None]]
    """Image file and mask file by name. Without a mask file, all pixels are background."""
    class_of_value: Mapping[int, int]
    """Class index for each mask value. Other mask values are errors."""
    class_of_color: Mapping[int, int] = field(default_factory=dict)
    """Class index for each colour `0xRRGGBB`; empty refuses RGB and RGBA masks."""
    faults: tuple[str, ...] = ()
    """What is wrong with the names of the files."""
    channels: int = 3
    """Number of channels that every image must have."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def identity(self) -> str:
        stats = {name: [path.stat() for path in pair if path] for name, pair in self.files.items()}
        stamps = [(name, *((each.st_size, each.st_mtime_ns) for each in pair)) for name, pair in stats.items()]
        codes = [sorted(self.class_of_value.items())]
        if self.class_of_color:
            codes.append(sorted(self.class_of_color.items()))
        return repr((READING_VERSION, self.labels.names, *codes, stamps))

    def pixels(self, index: int) -> int:
        image_file, _ = self.files[self.names[index]]
        return pixel_count(image_file)

    def read(self, index: int) -> LabelledImage:
        image_file, mask_file = self.files[self.names[index]]
        image_bytes, mask_bytes = content_of(image_file), content_of(mask_file) if mask_file else b""
        if mask_file is not None:
            mask = read_indices(mask_bytes, mask_file, self.class_of_value, self.class_of_color, self.labels)
        image = read_image(io.BytesIO(image_bytes), image_file, self.channels)
        if mask_file is None:
            mask = np.full((image.height, image.width), self.labels.background, np.uint8)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"{image_file} has {image.width} x {image.height} pixels but its mask {mask_file} has "
                f"{mask.shape[1]} x {mask.shape[0]}; both must have the same size"
                f"{self._orientation_hint(index, image.size, mask.shape)}"
            )
        image_digest = hashlib.sha256(image_bytes).digest()
        digest = hashlib.sha256(image_digest + hashlib.sha256(mask_bytes).digest())
        return LabelledImage(image, mask, digest.digest(), image_digest)

    def mask(self, index: int) -> np.ndarray:
        """Return the class indices `(H, W)` uint8 of one image, void 255, without reading the image; see `read`."""
        _, mask_file = self.files[self.names[index]]
        if mask_file is None:
            return self.read(index).mask
        content = content_of(mask_file)
        return read_indices(content, mask_file, self.class_of_value, self.class_of_color, self.labels)

    def _orientation_hint(self, index: int, size: tuple[int, int], shape: tuple[int, ...]) -> str:
        """End of the message about unequal sizes if only the EXIF orientations make them unequal; otherwise empty."""
        orientations = []
        for file in self.files[self.names[index]]:
            try:
                with decoded(file or Path(), file) as image:
                    orientations.append(orientation(image))
            except InputError:  # a TIFF that Pillow does not know
                return ""
        if shape != size or sum(each >= 5 for each in orientations) != 1:
            return ""
        return (
            f". Their EXIF orientations are {orientations[0]} and {orientations[1]} (1 is upright), and only these "
            f"make the sizes differ. Save the image and its mask upright, without an EXIF orientation"
        )


class Matched(NamedTuple):
    """Result of matching images with masks."""

    files: dict[str, tuple[Path, Path | None]]
    """Image file and mask file by name, of the images that have both."""
    faults: tuple[str, ...] = ()
    """Messages about files without a counterpart."""


def matched(
    image_dir: Path,
    mask_dir: Path,
    stems: Iterable[str] | None = None,
    suffixes: tuple[str, str] = ("", ""),
    masks_may_miss: bool = False,
) -> Matched:
    """Match the images below one folder with the masks below another folder by path without the ending.

    Names that differ only in their Unicode form (NFC, NFD) are equal.

    Args:
        image_dir: folder of images, including its sub-folders.
        mask_dir: folder of masks, including its sub-folders; it may be the same.
        stems: names to match, with or without the image's ending. None matches all files; then every image needs a
            mask and every mask needs an image.
        suffixes: ends of the names of images and of masks that are not part of the name.
        masks_may_miss: whether an image without a mask is allowed.

    Raises:
        InputError: a folder is missing, or two files have the same name.
    """
    masks = files_by_stem(mask_dir, suffixes[1])
    images = files_by_stem(image_dir, suffixes[0], set(masks.values()) if image_dir == mask_dir else ())
    wanted = sorted(images | masks) if stems is None else [stem_of(name, images, suffixes[0]) for name in stems]
    faults = []
    for kind, found, folder, others in (("mask", masks, mask_dir, images), ("image", images, image_dir, masks)):
        missing = [stem for stem in wanted if stem not in found]
        if kind == "mask" and masks_may_miss:
            continue
        if missing:
            other = "listed" if stems is not None else "mask" if kind == "image" else "image"
            known = others.keys() if stems is None else set(wanted)
            unmatched = {stem: file for stem, file in found.items() if stem not in known}
            faults.append(
                f"no {kind} in {folder} for {counted(len(missing), f'{other} name')}: {listed(missing, 20)}"
                f"{_near_miss(missing, unmatched)}"
            )
            if kind == "mask" and not any(suffixes) and not _near_miss(missing, unmatched) and stems is None:
                faults[-1] += ". If these images show only background, add empty=background"
    return Matched(
        {
            stem: (images[stem], masks.get(stem))
            for stem in wanted
            if stem in images and (masks_may_miss or stem in masks)
        },
        tuple(faults),
    )


def stem_of(name: str, images: Mapping[str, Path], suffix: str = "") -> str:
    """Return a listed name in the form of `files_by_stem`: composed, without suffix and ending of its image file."""
    path = PurePosixPath(composed(name))
    stem = path.with_suffix("").as_posix() if path.name else name
    for each in (stem.removesuffix(suffix), path.as_posix().removesuffix(suffix)):
        if suffix and each in images:
            return each
    found = images.get(stem)
    return stem if found is not None and composed(found.name) == path.name else path.as_posix()


def files_by_stem(folder: Path, suffix: str = "", without: Collection[Path] = ()) -> dict[str, Path]:
    """Return the image files below a folder by relative path without the ending, in Unicode's composed form.

    Args:
        folder: including its sub-folders.
        suffix: end of the names, with or without the ending, of the files to return; it is not part of the key.
        without: files to leave out.

    Raises:
        InputError: the folder is missing, a name is unprintable, or two files have the same name.
    """
    if not folder.is_dir():
        raise MissingDataError(f"folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(parent / name for parent, _, names in walk(folder) for name in names if is_image(name)):
        stem = composed(path.relative_to(folder).with_suffix("").as_posix())
        if not is_plain(stem):
            raise InputError(f"{folder} holds {stem!r}, whose name has control characters or is not UTF-8; rename it")
        ending = composed(suffix).removesuffix(path.suffix)
        if not stem.endswith(ending) or (is_image(suffix) and ending == suffix) or path in without:
            continue
        stem = stem.removesuffix(ending)
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
                f"{PurePosixPath(stem).name}{file.suffix}, and the other files likewise{_suffix_hint(stem, file)}"
            )
    return ""


def _suffix_hint(stem: str, file: Path) -> str:
    """End of a message that states the fields with which the names of an image and a mask match; may be empty."""
    image, mask = PurePosixPath(stem).name, composed(file.stem)
    common = next(
        (at for at, (a, b) in enumerate(zip(image, mask, strict=False)) if a != b), min(map(len, (image, mask)))
    )
    if not common or not _without_marks(image):
        return ""
    while common and image[common - 1] in "_-.":
        common -= 1
    fields = [("image_suffix", image[common:]), ("mask_suffix", mask[common:])]
    return "; or add " + " ".join(f"{name}={value}" for name, value in fields if value) if mask[common:] else ""


def _without_marks(stem: str) -> str:
    """A name in lower case without folders, separators and `NAME_MARKS`."""
    words = re.findall(r"[^\W_]+", PurePosixPath(stem).name.casefold())
    return "_".join(word for word in words if not NAME_MARKS.fullmatch(word)) or "_".join(words)


def content_of(file: Path) -> bytes:
    """Return the content of an image file. Raises an `InputError` if it cannot be read or is too large."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file} is too large: the file has more than {MAX_FILE_BYTES:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
