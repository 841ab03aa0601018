"""Finds the images to predict in a folder."""

from pathlib import Path

from segmentation.errors import InputError
from segmentation.io.folders import SUFFIXES, is_image, walk
from segmentation.io.names import is_plain
from segmentation.prediction.outputs import TABLE, WRITTEN


def find_images(images: Path, output: Path) -> dict[str, Path]:
    """Return the image files in a folder and its sub-folders, by their relative path; or a single image file.

    Follows symbolic links. Skips hidden and system files as in training, and files that an earlier prediction has
    written: the names in `WRITTEN` beside a `TABLE` or in `output`. Escapes unprintable letters in the relative paths.

    Raises:
        InputError: the folder does not exist or has no images, or two paths are equal after escaping.
    """
    if images.is_file():
        return {_escaped(images.name): images}
    if not images.is_dir():
        raise InputError(f"images={images} does not exist; set it to an image or a folder of images")
    found: dict[str, Path] = {}
    for folder, folders, files in walk(images):
        is_output = TABLE in files or folder.resolve() == output.resolve()
        folders[:], files = (
            [name for name in names if not (is_output and name in WRITTEN)] for names in (folders, files)
        )
        for name in files:
            if is_image(name):
                path = _escaped((folder / name).relative_to(images).as_posix())
                if path in found:
                    raise InputError(f"{found[path]!r} and {folder / name!r} print as the same path; rename one")
                found[path] = folder / name
    if not found:
        raise InputError(
            f"images={images} has no image: no file ends in {', '.join(SUFFIXES)}, apart from earlier predictions"
        )
    return dict(sorted(found.items()))


def _escaped(path: str) -> str:
    """A path with control characters, and bytes that are not UTF-8, replaced by escape sequences."""
    return "".join(
        letter if is_plain(letter) else letter.encode("unicode_escape", "surrogatepass").decode() for letter in path
    )
