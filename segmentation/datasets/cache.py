"""A split decoded and prepared once, kept on disk as uint8 arrays that later runs map into memory.

Layout: `<cache_dir>/<place and preparation>/<state of the files>/{images.npy, masks.npy, about.json}`. A folder appears
whole, by renaming, or not at all. When the files change, their state has another name and the old folder is removed.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.config import DataConfig
from segmentation.datasets.holdout import HELD_OUT
from segmentation.datasets.lock import alone
from segmentation.datasets.source import Source
from segmentation.errors import InputError
from segmentation.labels import VOID, Labels
from segmentation.progress import progress
from segmentation.transforms import fraction_in_crop, prepare

FORMAT = 3
PARTS = ("images", "masks")
BLOCK = 64 * 2**20
"""Bytes that are checked at a time."""
ABANDONED = 24 * 3600
"""Seconds; a copy that was begun so long ago and is not finished is one that nobody works on."""


Prepared = tuple[np.ndarray, np.ndarray, bytes, tuple[int, int]]
"""An image and its mask as they are kept, the digest of their files, and the image's own width and height."""


@dataclass(frozen=True)
class Split:
    """One prepared split of a data set."""

    dataset: str
    name: str
    location: str
    labels: Labels
    names: tuple[str, ...]
    images: np.ndarray
    """`(N, H, W, 3)` uint8."""
    masks: np.ndarray
    """`(N, H, W)` uint8 class indices, void 255."""
    fingerprint: str
    """Hash of the contents of the source files, in hexadecimal; the same on every machine."""
    digests: tuple[str, ...]
    """The same for each image."""
    in_crop: float = 1.0
    """Fraction of the original images' pixels that lies in the crop."""

    def __len__(self) -> int:
        return len(self.names)

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(B, 3, H, W)` uint8, channels last in memory, and masks `(B, H, W)` uint8."""
        return torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2), torch.from_numpy(self.masks[indices])


def load(source: Source, config: DataConfig, split: str) -> Split:
    """Map the cached split into memory, building it first where it is missing, stale or damaged."""
    if not source.names:
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is empty")
    held_out = config.calibration_fraction if split in (config.train_split, HELD_OUT) else 0.0
    recipe = (
        FORMAT,
        config.dataset,
        source.location,
        split,
        held_out,
        config.resize,
        config.crop,
        config.interpolation,
    )
    place = root(config.cache_dir) / _key(repr(recipe))
    folder = place / _key(source.identity())
    about = _checked(folder, source) or _built(source, config, split, folder)
    images, masks = (np.lib.format.open_memmap(folder / f"{part}.npy", mode="r") for part in PARTS)
    if masks.min() == VOID:
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is all void: no pixel has a class")
    return Split(
        config.dataset, split, source.location, source.labels, tuple(source.names), images, masks,
        about["fingerprint"], tuple(about["digests"]), about["in_crop"],
    )  # fmt: skip


def root(cache_dir: str | None) -> Path:
    """Where prepared pictures are kept; None is the user's cache folder."""
    if cache_dir:
        return Path(cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlproject"


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _built(source: Source, config: DataConfig, split: str, folder: Path) -> dict[str, Any]:
    """Build a split, or wait until another process has; returns what is known of it."""
    with ExitStack() as held:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder.parent / ".lock", f"prepares {config.dataset}/{split}"))
        except OSError as error:
            raise InputError(
                f"no cache can be made in {folder.parent}: {error.strerror}; choose another cache_dir"
            ) from error
        about = _checked(folder, source)
        if about is not None:
            return about
        if folder.exists():
            print(f"The cached copy of {config.dataset}/{split} in {folder} is damaged; it is made again.")
        _build(source, config, split, folder)
        about = _checked(folder, source)
        if about is None:
            raise InputError(f"the cache in {folder} cannot be read back; check the disk of cache_dir")
        _remove_others(folder.parent, folder)
        return about


def _build(source: Source, config: DataConfig, split: str, folder: Path) -> None:
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _write(source, config, split, building)
        _put_in_place(building, folder, source)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(building)):
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
        raise InputError(
            f"the cache of {config.dataset}/{split} could not be written to {folder.parent}: {error.strerror}. "
            f"Make room there or choose another cache_dir"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(source: Source, config: DataConfig, split: str, folder: Path) -> None:
    """Decode every picture on all cores and write them in order; plain writes, so that a full disk is an error."""
    count = len(source.names)
    checksums = {"images": 0, "masks": 0}
    sizes: tuple[int, ...] = ()
    digests = []
    original, kept = 0, 0.0
    with (
        (folder / "images.npy").open("wb") as images_file,
        (folder / "masks.npy").open("wb") as masks_file,
        progress(f"preparing {config.dataset}/{split}", count) as bar,
    ):
        for index, (image, mask, digest, (width, height)) in enumerate(_prepared(source, config)):
            if index == 0:
                sizes = mask.shape
                _write_header(images_file, (count, *image.shape))
                _write_header(masks_file, (count, *mask.shape))
            if mask.shape != sizes:
                raise InputError(
                    f"after preparation {source.names[0]} has {sizes[1]} x {sizes[0]} pixels but {source.names[index]} "
                    f"has {mask.shape[1]} x {mask.shape[0]}; set resize and crop so that all are equal"
                )
            for part, array, file in (("images", image, images_file), ("masks", mask, masks_file)):
                content = array.tobytes()
                checksums[part] = zlib.crc32(content, checksums[part])
                file.write(content)
            bar.update(1)
            digests.append(digest.hex())
            original += width * height
            kept += width * height * fraction_in_crop(width, height, config)
        for file in (images_file, masks_file):
            file.flush()
            os.fsync(file.fileno())
    about = {
        "format": FORMAT, "count": count, "checksums": checksums, "fingerprint": _fingerprint(source, digests),
        "digests": digests, "in_crop": kept / original,
    }  # fmt: skip
    (folder / "about.json").write_text(json.dumps(about))


def _fingerprint(source: Source, digests: Sequence[str]) -> str:
    """Hash of the classes, the pictures' names and their digests."""
    fingerprint = hashlib.sha256(repr(source.labels.names).encode())
    for name, digest in zip(source.names, digests, strict=True):
        fingerprint.update(name.encode() + b"\0" + bytes.fromhex(digest))
    return fingerprint.hexdigest()


def _prepared(source: Source, config: DataConfig) -> Iterator[Prepared]:
    def one(index: int) -> Prepared:
        picture = source.read(index)
        image, mask = prepare(picture.image, picture.mask, config, source.names[index])
        return image, mask, picture.digest, picture.image.size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source.names), 256):
            yield from pool.map(one, range(start, min(start + 256, len(source.names))))


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _put_in_place(building: Path, folder: Path, source: Source) -> None:
    if folder.exists() and _checked(folder, source) is None:
        shutil.rmtree(folder)
    try:
        building.rename(folder)
    except OSError:
        if _checked(folder, source) is None:  # otherwise another process was faster, and its copy is as good
            raise


def _checked(folder: Path, source: Source) -> dict[str, Any] | None:
    """What is known of a cached split, or None if it is not there, not whole, or not made from this source."""
    about = whole(folder)
    try:
        if about is None or about["fingerprint"] != _fingerprint(source, about["digests"]):
            return None
        digests = [bytes.fromhex(digest).hex() for digest in about["digests"]]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(about.get("in_crop"), float):
        return None
    return {"fingerprint": about["fingerprint"], "digests": digests, "in_crop": about["in_crop"]}


def whole(folder: Path) -> dict[str, Any] | None:
    """What the cached split in a folder says of itself, or None if its arrays are not there or not whole."""
    try:
        about = json.loads((folder / "about.json").read_text())
        arrays: dict[str, Any] = {part: np.lib.format.open_memmap(folder / f"{part}.npy", mode="r") for part in PARTS}
        if arrays["images"].shape != (about["count"], *arrays["masks"].shape[1:], 3) or arrays["masks"].ndim != 3:
            return None
        for part, array in arrays.items():
            if len(array) != about["count"] or array.dtype != np.uint8 or not array.flags.c_contiguous:
                return None
            found, flat = 0, array.reshape(-1)
            for start in range(0, len(flat), BLOCK):
                found = zlib.crc32(flat[start : start + BLOCK], found)
            if found != about["checksums"][part]:
                return None
    except Exception:  # readers of damaged files raise nearly anything; what is damaged is made again
        return None
    return dict(about)


def _remove_others(place: Path, kept: Path) -> None:
    """Remove the copies of earlier states of the same files, and what builders that died have left.

    A process that still maps a copy keeps its own view.
    """
    now = kept.stat().st_mtime  # by the clock of the disk, which may be another machine's
    for folder in place.iterdir():
        is_being_built = folder.name.startswith(".building-") and now - folder.stat().st_mtime < ABANDONED
        if folder != kept and not is_being_built:
            shutil.rmtree(folder, ignore_errors=True)
