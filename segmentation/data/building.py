"""Loads a prepared split from the cache. Builds it first where it is missing, stale or damaged.

Building decodes and prepares every image once, on all cores, and writes the results as arrays. A new split
appears in the cache by renaming its folder, so it is complete or absent. Its arrays are read back and verified once.
"""

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data.cache import (
    FORMAT,
    PARTS,
    fingerprint,
    open_arrays,
    read_about,
    refresh_about,
    remove_outdated,
    split_folder,
    verified_about,
    write_about,
)  # fmt: skip
from segmentation.data.faults import refuse
from segmentation.data.held_out import Subset
from segmentation.data.in_parallel import each_image
from segmentation.data.preparation import fraction_in_crop, prepare
from segmentation.data.ragged import Ragged
from segmentation.data.source import Source, split_title
from segmentation.data.split import Split, histogram
from segmentation.errors import InputError
from segmentation.io.channels import bits_of
from segmentation.system.progress import progress

MAX_CHECKED = 2000
"""Images that are read when files are missing, so that one message states what is wrong with the files at hand too."""


class Prepared(NamedTuple):
    """One prepared image."""

    image: np.ndarray
    """`(h, w, C)` uint8 or uint16."""
    mask: np.ndarray
    """`(h, w)` uint8 class indices."""
    digest: bytes
    """Hash of the source files."""
    image_digest: bytes
    """Hash of the image file alone."""
    original_size: tuple[int, int]
    """Width and height before preparation."""


def load(source: Source, config: DataConfig, split: str, whole: bool = False) -> Split:
    """Return a prepared split, mapped from the cache. Builds it first where it is missing, stale or damaged.

    Args:
        source: the images and masks before preparation.
        config: how they are prepared.
        split: name of the split.
        whole: do not crop the images, which may then differ in size.

    Raises:
        InputError: the split is empty or all void, a source file is wrong, or the cache cannot be written.
    """
    if not source.names:
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is empty")
    folder = split_folder(source, config, split, whole)
    about = read_about(folder, source) or _build(source, config, split, folder, whole)
    arrays: Mapping[str, Any] = open_arrays(folder)
    if whole:
        sizes = np.array(about["sizes"], np.int64)
        arrays = {part: Ragged(np.asarray(flat), sizes) for part, flat in arrays.items()}
    if not any(about["counts"][:VOID]):
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is all void: no pixel has a class")
    return Split(
        config.dataset, split, source.location, source.labels, tuple(source.names), arrays["images"], arrays["masks"],
        about["fingerprint"], tuple(about["digests"]), tuple(about["counts"]), about["in_crop"],
        tuple(about["image_digests"]),
    )  # fmt: skip


def _build(source: Source, config: DataConfig, split: str, folder: Path, whole: bool) -> dict[str, Any]:
    """Build a split, unless another process has built it meanwhile. Returns the metadata."""
    title = split_title(config.dataset, config.data_dir, split)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder.parent / ".lock", title)
    except OSError as error:
        raise InputError(
            f"the cache folder {folder.parent} cannot be created: {error.strerror}; choose another cache_dir"
        ) from error
    with lock:
        about = read_about(folder, source) or refresh_about(folder, source)
        if about is not None:
            return about
        if folder.exists():
            print(f"The cached split {title} in {folder} is damaged; it is built again.")
        _write_folder(source, config, split, folder, whole)
        about = verified_about(folder)
        if about is None:
            raise InputError(f"the cache in {folder} cannot be read back; check the disk of cache_dir")
        remove_outdated(folder)
        return about


def _locked(file: Path, name: str) -> AbstractContextManager[BaseFileLock]:
    """Acquire a lock file, so that processes that need the same split build it once instead of each for itself."""
    lock = FileLock(file)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"Waiting for another process that prepares {name}.", flush=True)
        return lock.acquire()


def _write_folder(source: Source, config: DataConfig, split: str, folder: Path, whole: bool) -> None:
    """Write a cached split under a temporary name, and rename it when it is complete."""
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _write(source, config, split, building, whole)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(building)):
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
        title = split_title(config.dataset, config.data_dir, split)
        raise InputError(
            f"the cache of {title} could not be written to {folder.parent}: {error.strerror}. "
            f"Make room there or choose another cache_dir"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(source: Source, config: DataConfig, split: str, folder: Path, whole: bool) -> None:
    """Prepare all images and write them in order.

    Uses plain writes instead of a memory map, so that a full disk raises an exception instead of a signal.
    """
    count = len(source.names)
    checksums = dict.fromkeys(PARTS, 0)
    first_shape: tuple[int, ...] = ()
    digests, image_digests, sizes = [], [], []
    faults: list[str] = []
    original_pixels, pixels_in_crop = 0, 0.0
    counts = np.zeros(256, np.int64)
    with (
        (folder / "images.npy").open("wb") as images_file,
        (folder / "masks.npy").open("wb") as masks_file,
        progress(f"preparing {split_title(config.dataset, config.data_dir, split)}", count) as bar,
    ):
        for index, prepared in enumerate(_prepared(source, config, whole)):
            bar.update(1)
            if isinstance(prepared, InputError):
                faults.append(str(prepared))
                continue
            image, mask, digest, image_digest, (width, height) = prepared
            if not first_shape:
                first_shape, first_name = mask.shape, source.names[index]
                first_bits = bits_of(image)
                _write_header(images_file, (0, image.shape[-1]) if whole else (count, *image.shape), image.dtype)
                _write_header(masks_file, (0,) if whole else (count, *mask.shape), mask.dtype)
            if bits_of(image) != first_bits:
                faults.append(
                    f"{first_name} has {first_bits} bits per channel but {source.names[index]} has {bits_of(image)}; "
                    f"convert all images to the same bits"
                )
            if mask.shape != first_shape and not whole:
                faults.append(
                    f"after preparation {first_name} has {first_shape[1]} x {first_shape[0]} pixels but "
                    f"{source.names[index]} has {mask.shape[1]} x {mask.shape[0]}; set resize and crop so that all "
                    f"images have the same size"
                )
            if faults:
                continue
            for part, array, file in (("images", image, images_file), ("masks", mask, masks_file)):
                content = np.ascontiguousarray(array).data
                checksums[part] = zlib.crc32(content, checksums[part])
                file.write(content)
            counts += histogram(mask)
            sizes.append(mask.shape)
            digests.append(digest.hex())
            image_digests.append(image_digest.hex())
            original_pixels += width * height
            pixels_in_crop += width * height * (1 if whole else fraction_in_crop(width, height, config))
        refuse(faults, source.location)
        if whole:  # numpy's headers leave room for a larger number
            for file in (images_file, masks_file):
                file.seek(0)
            _write_header(images_file, (int(counts.sum()), image.shape[-1]), image.dtype)
            _write_header(masks_file, (int(counts.sum()),), mask.dtype)
        for file in (images_file, masks_file):
            file.flush()
            os.fsync(file.fileno())
    write_about(folder, {
        "format": FORMAT, "count": count, "checksums": checksums,
        "fingerprint": fingerprint(source, digests), "digests": digests,
        "image_digests": image_digests, "counts": counts.tolist(),
        "in_crop": pixels_in_crop / original_pixels,
    } | ({"sizes": sizes} if whole else {}))  # fmt: skip


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def reading_faults(source: Source, config: DataConfig) -> list[str]:
    """Return what is wrong with the content of the first `MAX_CHECKED` images and their masks."""
    some = Subset(source, tuple(range(min(len(source.names), MAX_CHECKED))))
    return [str(found) for found in _prepared(some, config) if isinstance(found, InputError)]


def _prepared(source: Source, config: DataConfig, whole: bool = False) -> Iterator[Prepared | InputError]:
    """Yield every image, prepared, or what is wrong with it, in order."""

    def prepared(index: int) -> Prepared:
        image, mask, digest, image_digest = source.read(index)
        return Prepared(*prepare(image, mask, config, source.names[index], whole), digest, image_digest, image.size)

    return each_image(source, prepared)
