"""Finds the images to predict in a folder."""

from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from segmentation.errors import InputError, listed
from segmentation.io.folders import SUFFIXES, is_image, walk
from segmentation.io.names import is_plain
from segmentation.prediction.outputs import TABLE, WRITTEN

LABELS_BESIDE = {
    "images": ("masks", "labels", "annotations"),
    "JPEGImages": ("SegmentationClass", "SegmentationClassAug", "SegmentationObject"),
}
"""Names of the folders that hold a data set's label masks, by the name of the folder of images beside them."""
CAMVID_LABELS = "annot"
"""CamVid keeps the masks of a folder `train` in the folder `trainannot`."""


class Found(NamedTuple):
    """What a folder of images holds."""

    images: dict[str, Path]
    """Image files by relative path."""
    ignored: tuple[str, ...]
    """What was not read, such as `2 .heic files` or `the label masks in masks`."""


def find_images(images: Path, output: Path) -> Found:
    """Return the image files in a folder and its sub-folders, by their relative path; or a single image file.

    Follows symbolic links. Skips hidden and system files as in training, and files that an earlier prediction has
    written: the names in `WRITTEN` beside a `TABLE` or in `output`. Skips folders of label masks beside their images
    and files of other formats, and returns which. Escapes unprintable letters in the relative paths.

    Raises:
        InputError: the folder does not exist, has no images or holds the label masks of images beside it, or two paths
            are equal after escaping.
    """
    if images.is_file():
        return Found({_escaped(images.name): images}, ())
    if not images.is_dir():
        raise InputError(f"images={images} does not exist; set it to an image or a folder of images")
    if images.resolve().name in _label_folders(_folders_beside(images)):
        raise InputError(f"images={images} holds the label masks of images beside it; name the folder of images")
    found: dict[str, Path] = {}
    endings, masks = Counter[str](), list[str]()
    for folder, folders, files in walk(images):
        is_output = TABLE in files or folder.resolve() == output.resolve()
        folders[:], files = (
            [name for name in names if not (is_output and name in WRITTEN)] for names in (folders, files)
        )
        labels = _label_folders(folders)
        folders[:] = [name for name in folders if name not in labels]
        masks += [_escaped((folder / name).relative_to(images).as_posix()) for name in sorted(labels)]
        for name in files:
            if is_image(name):
                path = _escaped((folder / name).relative_to(images).as_posix())
                if path in found:
                    raise InputError(f"{found[path]!r} and {folder / name!r} print as the same path; rename one")
                found[path] = folder / name
            elif not (is_output and name in (TABLE, "classes.txt")):
                endings[_escaped(PurePath(name).suffix.lower())] += 1
    ignored = [f"{count} {ending or 'other'} file{'s' if count > 1 else ''}" for ending, count in endings.most_common()]
    if masks:
        ignored.append(f"the label masks in {listed(masks)}")
    if not found:
        also = f" ({', '.join(ignored)})" if ignored else ""
        raise InputError(
            f"images={images} has no image: no file ends in {', '.join(SUFFIXES)}, apart from earlier predictions and "
            f"label masks{also}"
        )
    return Found(dict(sorted(found.items())), tuple(ignored))


def _folders_beside(folder: Path) -> list[str]:
    """Return the names of a folder and of those beside it; none if they may not be listed."""
    with suppress(OSError):
        return [each.name for each in folder.resolve().parent.iterdir() if each.is_dir()]
    return []


def _label_folders(folders: list[str]) -> set[str]:
    """Return which of the folders beside each other hold the label masks of others."""
    known = {name for images, labels in LABELS_BESIDE.items() if images in folders for name in labels}
    return {name for name in folders if name in known or name.removesuffix(CAMVID_LABELS) in set(folders) - {name, ""}}


def _escaped(path: str) -> str:
    """A path with control characters, and bytes that are not UTF-8, replaced by escape sequences."""
    return "".join(
        letter if is_plain(letter) else letter.encode("unicode_escape", "surrogatepass").decode() for letter in path
    )
