"""Finds image files below a folder. Skips hidden files and what operating systems and tools leave there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from segmentation.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of image and mask files, in lower case; case is ignored."""
SYSTEM_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
"""Names, in lower case, of folders that operating systems and tools create."""


def is_image(name: str) -> bool:
    """Return whether a file name has the ending of an image format."""
    return name.lower().endswith(SUFFIXES)


def is_skipped(name: str) -> bool:
    """Return whether a file or folder is hidden or created by an operating system or tool."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below `folder` and itself, with the names of its sub-folders and files, as `os.walk` does.

    Leaves out skipped names (`is_skipped`). Follows symbolic links, except into a folder that contains the link.

    Raises:
        InputError: a folder cannot be read.
    """
    parents: dict[str, set[str]] = {str(folder): set()}
    for name, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        resolved = parents.pop(name) | {os.path.realpath(name)}
        folders[:] = [
            each
            for each in folders
            if not is_skipped(each) and os.path.realpath(os.path.join(name, each)) not in resolved  # noqa: PTH118
        ]
        yield Path(name), folders, [each for each in files if not is_skipped(each)]
        parents.update((os.path.join(name, each), resolved) for each in folders)  # noqa: PTH118


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}") from error
