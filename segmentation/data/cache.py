"""The cache of prepared splits: where a split is stored, in which format, and whether its files are intact.

Layout: `<cache_dir>/<hash of location and preparation>/<hash of the source files' state>/`, which holds `images.npy`,
`masks.npy` and `about.json`. `segmentation.data.building` writes such a folder. Images that are cropped have one size.
Whole images may differ in size: their arrays hold the pixels of all images in a row, and `about.json` their sizes.

Opening a split compares sizes, times and headers only. `verified_about` also compares the checksums of the arrays.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.config import DataConfig
from segmentation.data.held_out import is_part
from segmentation.data.source import HELD_OUT, Source

FORMAT = 5
"""Version of the format. Raise it when the stored content changes."""
PARTS = ("images", "masks")
BLOCK = 64 * 2**20
"""Bytes per step of a checksum."""
NOT_IN_KEY = {
    "data_dir": "`Source.location` replaces it",
    "download": "does not change the files",
    "cache_dir": "is where the cache is",
    **dict.fromkeys(("crop_at", "score_crop"), "whether images are whole replaces it"),
    "train_split": "the name of the split replaces it",
    "val_split": "the name of the split replaces it",
    **dict.fromkeys(
        ("calibration_fraction", "val_fraction", "folds", "fold", "group_by"), "matters for parts of the training split"
    ),
}
"""Data fields that are not part of a split's key, and the reason. All other data fields are part of it."""
ABANDONED_SECONDS = 24 * 3600
"""Age at which an unfinished folder is presumed to belong to a process that has died."""


def split_folder(source: Source, config: DataConfig, split: str, whole: bool = False) -> Path:
    """Return the folder in which a prepared split, cropped or with whole images, is cached. It may not exist yet."""
    key = hashed(repr((FORMAT, source.location, *_key_fields(config, split, whole))))
    return root(config.cache_dir) / key / hashed(source.identity())


def root(cache_dir: str | None) -> Path:
    """Return the folder of all cached splits; None stands for `mlproject` in the user's cache folder."""
    if cache_dir:
        return Path(cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlproject"


def data_fields(config: DataConfig) -> tuple[tuple[str, object], ...]:
    """Return name and value of every data field, as a key for results that depend on the data."""
    return tuple((field.name, getattr(config, field.name)) for field in fields(DataConfig))


def _key_fields(config: DataConfig, split: str, whole: bool = False) -> Iterator[tuple[str, object]]:
    """Name and value of everything that a prepared split depends on, except its source files."""
    yield "split", split
    for name, value in data_fields(config):
        if name not in NOT_IN_KEY:
            yield name, "whole" if whole and name == "crop" else value
    if split in (config.train_split, HELD_OUT):
        yield "held_out", (config.train_split, config.calibration_fraction)
    if is_part(config, split) and (config.val_fraction or config.folds is not None or config.group_by is not None):
        yield "part", (config.train_split, config.val_fraction, config.folds, config.fold, config.group_by)


def hashed(text: str) -> str:
    """Return a hash of a text in 24 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def fingerprint(source: Source, digests: Sequence[str]) -> str:
    """Return a hash of the class names, the image names and the images' digests."""
    found = hashlib.sha256(repr(source.labels.names).encode())
    for name, digest in zip(source.names, digests, strict=True):
        found.update(name.encode() + b"\0" + bytes.fromhex(digest))
    return found.hexdigest()


def open_arrays(folder: Path) -> dict[str, np.memmap]:
    """Map the images and the masks of a cached split into memory."""
    return {part: np.lib.format.open_memmap(folder / f"{part}.npy", mode="r") for part in PARTS}


def read_about(folder: Path, source: Source) -> dict[str, Any] | None:
    """Return the metadata of a cached split, or None if it is missing, stale or visibly damaged.

    Compares sizes, times and headers, and reads no pixels.
    """
    about = _sealed_about(folder)
    with suppress(OSError):
        if about is not None and _is_of(about, source) and about["stamps"] == _stamps(folder):
            return about if _checked_arrays(folder, about) else None
    return None


def refresh_about(folder: Path, source: Source) -> dict[str, Any] | None:
    """Return the metadata of an intact cached split whose file times have changed, as after a copy, and update them.

    Returns None if the split is missing, stale or damaged. Reads all pixels.
    """
    about = verified_about(folder)
    if about is None or not _is_of(about, source):
        return None
    with suppress(OSError):  # without write permission, the next process reads all pixels again
        write_about(folder, {name: value for name, value in about.items() if name != "stamps"})
    return about


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write the metadata of a cached split atomically, with the current sizes and times of its arrays."""
    about = about | {"stamps": _stamps(folder)}
    unfinished = folder / ".about.part"
    unfinished.write_text(json.dumps(about | {"seal": _seal(about)}))
    unfinished.replace(folder / "about.json")


def verified_about(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of a cached split, or None if a file is missing or a checksum differs. Reads all pixels."""
    about = _sealed_about(folder)
    try:
        arrays = about and _checked_arrays(folder, about)
        if about is None or not arrays:
            return None
        for part, array in arrays.items():
            checksum, flat = 0, array.reshape(-1)
            for start in range(0, len(flat), BLOCK):
                checksum = zlib.crc32(flat[start : start + BLOCK].data, checksum)
            if checksum != about["checksums"][part]:
                return None
    except OSError:
        return None
    return about


def is_of_another_version(folder: Path) -> bool:
    """Return whether a cached split has the format of another version of this program."""
    try:
        return bool(json.loads((folder / "about.json").read_text())["format"] != FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def discard(folder: Path) -> None:
    """Mark a cached split as missing, so that it is built again when needed. Open memory maps stay valid."""
    (folder / "about.json").unlink(missing_ok=True)


def remove_outdated(current: Path) -> None:
    """Remove the folders beside `current`: earlier states of the same source files, and abandoned unfinished folders.

    Open memory maps stay valid.
    """
    now = current.stat().st_mtime  # the file server's clock, which may differ from this machine's
    for folder in current.parent.iterdir():
        is_being_built = folder.name.startswith(".building-") and now - folder.stat().st_mtime < ABANDONED_SECONDS
        if folder != current and not is_being_built:
            shutil.rmtree(folder, ignore_errors=True)


def _is_of(about: dict[str, Any], source: Source) -> bool:
    """Whether a cached split was built from the images of this source, compared by name."""
    return about["count"] == len(source.names) and about["fingerprint"] == fingerprint(source, about["digests"])


def _stamps(folder: Path) -> list[list[int]]:
    """Size and modification time of each array's file."""
    stats = [(folder / f"{part}.npy").stat() for part in PARTS]
    return [[each.st_size, each.st_mtime_ns] for each in stats]


def _seal(about: dict[str, Any]) -> str:
    """Hash of the metadata, by which a damaged `about.json` is detected."""
    return hashed(json.dumps(about, sort_keys=True))


def _sealed_about(folder: Path) -> dict[str, Any] | None:
    """The metadata of a cached split, or None if it is missing, damaged or of another version."""
    try:
        about = dict(json.loads((folder / "about.json").read_text()))
        return about if about.pop("seal") == _seal(about) and about["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _checked_arrays(folder: Path, about: dict[str, Any]) -> dict[str, np.memmap] | None:
    """The arrays of a cached split, mapped into memory, or None if their headers are wrong."""
    try:
        arrays = open_arrays(folder)
    except Exception:  # numpy raises nearly any exception for damaged files; a damaged split is built again
        return None
    images, masks = arrays["images"], arrays["masks"]
    if (sizes := about.get("sizes")) is None:
        is_right = masks.ndim == 3 and len(masks) == about["count"]
    else:
        pixels = sum(height * width for height, width in sizes)
        is_right = masks.ndim == 1 and len(sizes) == about["count"] and len(masks) == pixels
    is_right &= images.shape[:-1] == masks.shape
    is_right &= masks.dtype == np.uint8 and images.dtype in (np.uint8, np.uint16)
    is_right &= all(array.flags.c_contiguous for array in arrays.values())
    return arrays if is_right else None
