"""Which classes each image of a split shows: read once from its mask, before it is resized and cropped, and cached."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentation.classes import VOID
from segmentation.data.cache import hashed, root
from segmentation.data.faults import refuse
from segmentation.data.in_parallel import each_image
from segmentation.data.source import Source
from segmentation.data.split import histogram
from segmentation.errors import InputError
from segmentation.system.progress import progress

VERSION = 1
"""Version of the cached table. Raise it when its content changes."""


class ImageClasses(NamedTuple):
    """The classes of `N` images, in the order of the source."""

    present: np.ndarray
    """`(N, C)` bool, whether an image has a pixel of a class."""
    digests: tuple[str, ...]
    """Hash of the content of each image's source files, in hexadecimal."""


def image_classes(source: Source, cache_dir: str | None) -> ImageClasses:
    """Return the classes of every image, from the cache if the files have not changed.

    Raises:
        InputError: files are wrong; the message names them.
    """
    key = hashed(repr((VERSION, source.location, source.identity())))
    file = root(cache_dir) / "classes" / f"{key}.json"
    rows = _stored(file, len(source.names), len(source.labels))
    if rows is None:
        rows = _read(source)
        with suppress(OSError):  # without room or permission, the next process reads the masks again
            _store(file, rows)
    present = np.zeros((len(rows), len(source.labels)), bool)
    for index, (_, found) in enumerate(rows):
        present[index, found] = True
    return ImageClasses(present, tuple(digest for digest, _ in rows))


def _read(source: Source) -> list[tuple[str, list[int]]]:
    """Content hash and class indices of every image."""

    def read(index: int) -> tuple[str, list[int]]:
        image = source.read(index)
        return image.digest.hex(), [value for value, pixels in enumerate(histogram(image.mask)[:VOID]) if pixels]

    rows, faults = [], []
    with progress("reading the classes of all images", len(source.names)) as bar:
        for row in each_image(source, read):
            bar.update(1)
            if isinstance(row, InputError):
                faults.append(str(row))
            else:
                rows.append(row)
    refuse(faults, source.location)
    return rows


def _stored(file: Path, images: int, classes: int) -> list[tuple[str, list[int]]] | None:
    """The cached table, or None if it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        rows = [(str(digest), [int(index) for index in found]) for digest, found in content["rows"]]
        intact = content["seal"] == hashed(json.dumps(content["rows"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_right = intact and len(rows) == images and all(0 <= index < classes for _, found in rows for index in found)
    return rows if is_right else None


def _store(file: Path, rows: list[tuple[str, list[int]]]) -> None:
    """Write the table atomically, since several processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=".unfinished-", dir=file.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump({"rows": rows, "seal": hashed(json.dumps(rows))}, stream)
        Path(unfinished).replace(file)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
