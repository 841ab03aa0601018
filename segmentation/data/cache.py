"""A split decoded and prepared once, kept on disk as uint8 arrays that later runs map into memory.

Layout: `<cache_dir>/<place and preparation>/<state of the files>/{images.npy, masks.npy, about.json}`. A folder appears
whole, by renaming, or not at all. When the files change, their state has another name and the old folder is removed.

The arrays are read back and compared with their checksums once, when they are built. Opening them later compares only
sizes, times and headers; `whole` compares everything again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.held_out import HELD_OUT
from segmentation.data.lock import alone
from segmentation.data.preparation import fraction_in_crop, prepare
from segmentation.data.source import Source
from segmentation.errors import InputError
from segmentation.system.progress import progress

FORMAT = 4
PARTS = ("images", "masks")
BLOCK = 64 * 2**20
"""Bytes that are checked at a time."""
IN_FLIGHT = 512 * 2**20
"""Bytes that the images being prepared may take together; one larger image is prepared by itself."""
BYTES_A_PIXEL = 12
"""What an image takes at most while it is prepared: decoded as 4 bytes a pixel, copied as 3, and its mask 4 times."""
AHEAD = 256
"""Images that are begun before the first of them is written."""
ELSEWHERE = {
    "data_dir": "`Source.location` stands for it",
    "download": "says how the files came, not what they are",
    "cache_dir": "says where the copy is",
    "train_split": "the split's own name stands for it",
    "val_split": "the split's own name stands for it",
    "calibration_fraction": "concerns the training split and what is held out of it",
}
"""Fields of the data configuration that do not name a prepared split, and why; all others do."""
ABANDONED = 24 * 3600
"""Seconds; a copy that was begun so long ago and is not finished is one that nobody works on."""


Prepared = tuple[np.ndarray, np.ndarray, bytes]
"""An image and its mask as they are kept, and the digest of their files."""


@dataclass(frozen=True)
class Split:
    """One prepared split of a data set."""

    dataset: str
    name: str
    location: str
    labels: Classes
    names: tuple[str, ...]
    images: np.ndarray
    """`(N, H, W, 3)` uint8."""
    masks: np.ndarray
    """`(N, H, W)` uint8 class indices, void 255."""
    fingerprint: str
    """Hash of the contents of the source files, in hexadecimal; the same on every machine."""
    digests: tuple[str, ...]
    """The same for each image."""
    counts: tuple[int, ...] | None = None
    """Pixels of each mask value, 256 of them; None if nobody has counted."""
    in_crop: float = 1.0
    """Fraction of the original images' pixels that lies in the crop."""

    def __len__(self) -> int:
        return len(self.names)

    def pixels_by_value(self) -> tuple[int, ...]:
        """Pixels of each mask value, 256 of them; a prepared split knows them, of another one the masks are read."""
        if self.counts is not None:
            return self.counts
        return tuple(int(count) for count in sum((np.array(_histogram(mask)) for mask in self.masks), np.zeros(256)))

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images `(B, 3, H, W)` uint8, channels last in memory, and masks `(B, H, W)` uint8."""
        return torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2), torch.from_numpy(self.masks[indices])


def load(source: Source, config: DataConfig, split: str) -> Split:
    """Map the cached split into memory, building it first where it is missing, stale or damaged."""
    if not source.names:
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is empty")
    place = root(config.cache_dir) / _key(repr((FORMAT, source.location, *_named(config, split))))
    folder = place / _key(source.identity())
    about = _opened(folder, source) or _built(source, config, split, folder)
    images, masks = (np.lib.format.open_memmap(folder / f"{part}.npy", mode="r") for part in PARTS)
    if not any(about["counts"][:VOID]):
        raise InputError(f"split={split!r} of {config.dataset} in {source.location} is all void: no pixel has a class")
    return Split(
        config.dataset, split, source.location, source.labels, tuple(source.names), images, masks,
        about["fingerprint"], tuple(about["digests"]), tuple(about["counts"]), about["in_crop"],
    )  # fmt: skip


def data_fields(config: DataConfig) -> tuple[tuple[str, object], ...]:
    """Name and value of every field that splits may depend on: a key for what is made from them."""
    return tuple((field.name, getattr(config, field.name)) for field in fields(DataConfig))


def _named(config: DataConfig, split: str) -> Iterator[tuple[str, object]]:
    """What a prepared split depends on, but for the files."""
    yield "split", split
    yield from ((name, value) for name, value in data_fields(config) if name not in ELSEWHERE)
    if split in (config.train_split, HELD_OUT):
        yield "held_out", (config.train_split, config.calibration_fraction)


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
        about = _opened(folder, source) or _renewed(folder, source)
        if about is not None:
            return about
        if folder.exists():
            print(f"The cached copy of {config.dataset}/{split} in {folder} is damaged; it is made again.")
        _build(source, config, split, folder)
        about = whole(folder)
        if about is None:
            raise InputError(f"the cache in {folder} cannot be read back; check the disk of cache_dir")
        _remove_others(folder.parent, folder)
        return about


def _build(source: Source, config: DataConfig, split: str, folder: Path) -> None:
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _write(source, config, split, building)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
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
    own_sizes: dict[int, tuple[int, int]] = {}
    original, kept = 0, 0.0
    counts = np.zeros(256, np.int64)
    with (
        (folder / "images.npy").open("wb") as images_file,
        (folder / "masks.npy").open("wb") as masks_file,
        progress(f"preparing {config.dataset}/{split}", count) as bar,
    ):
        for index, (image, mask, digest) in enumerate(_prepared(source, config, own_sizes)):
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
                content = np.ascontiguousarray(array).data
                checksums[part] = zlib.crc32(content, checksums[part])
                file.write(content)
            bar.update(1)
            counts += _histogram(mask)
            digests.append(digest.hex())
            width, height = own_sizes.pop(index)
            original += width * height
            kept += width * height * fraction_in_crop(width, height, config)
        for file in (images_file, masks_file):
            file.flush()
            os.fsync(file.fileno())
    _write_about(folder, {
        "format": FORMAT, "count": count, "checksums": checksums, "fingerprint": _fingerprint(source, digests),
        "digests": digests, "counts": counts.tolist(), "in_crop": kept / original,
    })  # fmt: skip


def _histogram(mask: np.ndarray) -> list[int]:
    """How many pixels of a mask have each value; by Pillow, which makes no copy of eight bytes a pixel."""
    return Image.fromarray(mask).histogram()


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write what is known of a cached split, with the present sizes and times of its arrays, whole or not at all."""
    about = about | {"stamps": _stamps(folder)}
    unfinished = folder / ".about.part"
    unfinished.write_text(json.dumps(about | {"seal": _seal(about)}))
    unfinished.replace(folder / "about.json")


def _stamps(folder: Path) -> list[list[int]]:
    found = [(folder / f"{part}.npy").stat() for part in PARTS]
    return [[each.st_size, each.st_mtime_ns] for each in found]


def _seal(about: dict[str, Any]) -> str:
    return _key(json.dumps(about, sort_keys=True))


def _fingerprint(source: Source, digests: Sequence[str]) -> str:
    """Hash of the classes, the pictures' names and their digests."""
    fingerprint = hashlib.sha256(repr(source.labels.names).encode())
    for name, digest in zip(source.names, digests, strict=True):
        fingerprint.update(name.encode() + b"\0" + bytes.fromhex(digest))
    return fingerprint.hexdigest()


def _prepared(
    source: Source, config: DataConfig, own_sizes: dict[int, tuple[int, int]] | None = None
) -> Iterator[Prepared]:
    """Decode and prepare every picture on all cores, in order; those under way take `IN_FLIGHT` bytes at most.

    Width and height of each, as it was found, are put into `own_sizes` by its place.
    """

    def one(index: int) -> Prepared:
        picture = source.read(index)
        if own_sizes is not None:
            own_sizes[index] = picture.image.size
        return *prepare(picture.image, picture.mask, config, source.names[index]), picture.digest

    begun: deque[tuple[Future[Prepared], int]] = deque()
    taken = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for index in range(len(source.names)):
                size = BYTES_A_PIXEL * source.pixels(index)
                while begun and (taken + size > IN_FLIGHT or len(begun) == AHEAD):
                    taken -= begun[0][1]
                    yield begun.popleft()[0].result()
                begun.append((pool.submit(one, index), size))
                taken += size
            while begun:
                yield begun.popleft()[0].result()
        finally:
            for future, _ in begun:
                future.cancel()


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _opened(folder: Path, source: Source) -> dict[str, Any] | None:
    """What is known of a cached split by its sizes, times and headers; None if they are not as they were written."""
    about = _about(folder)
    with suppress(OSError):
        if about is not None and _is_of(about, source) and about["stamps"] == _stamps(folder):
            return about if _arrays(folder, about) else None
    return None


def _renewed(folder: Path, source: Source) -> dict[str, Any] | None:
    """What is known of a cached split that is whole although its times have changed, as in a copy; then its times."""
    about = whole(folder)
    if about is None or not _is_of(about, source):
        return None
    with suppress(OSError):  # who may not write there checks it again the next time
        _write_about(folder, {name: value for name, value in about.items() if name != "stamps"})
    return about


def _is_of(about: dict[str, Any], source: Source) -> bool:
    """Whether a cached split was made from the images of this source, by their names."""
    return about["count"] == len(source.names) and about["fingerprint"] == _fingerprint(source, about["digests"])


def whole(folder: Path) -> dict[str, Any] | None:
    """What is known of the cached split in a folder, or None if its arrays are not there or not whole: reads them."""
    about = _about(folder)
    try:
        arrays = about and _arrays(folder, about)
        if about is None or not arrays:
            return None
        for part, array in arrays.items():
            found, flat = 0, array.reshape(-1)
            for start in range(0, len(flat), BLOCK):
                found = zlib.crc32(flat[start : start + BLOCK].data, found)
            if found != about["checksums"][part]:
                return None
    except OSError:
        return None
    return about


def is_of_another_version(folder: Path) -> bool:
    """Whether the cached split in a folder was written by a version of this program that keeps other things."""
    try:
        return bool(json.loads((folder / "about.json").read_text())["format"] != FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def discard(folder: Path) -> None:
    """Let a cached split be made again when it is needed next; who has it open keeps it."""
    (folder / "about.json").unlink(missing_ok=True)


def _about(folder: Path) -> dict[str, Any] | None:
    """What is written about a cached split, if nobody has changed it since."""
    try:
        about = dict(json.loads((folder / "about.json").read_text()))
        return about if about.pop("seal") == _seal(about) and about["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _arrays(folder: Path, about: dict[str, Any]) -> dict[str, np.memmap] | None:
    """The arrays of a cached split, mapped into memory, if their headers are what they should be."""
    try:
        arrays = {part: np.lib.format.open_memmap(folder / f"{part}.npy", mode="r") for part in PARTS}
    except Exception:  # readers of damaged files raise nearly anything; what is damaged is made again
        return None
    images, masks = arrays["images"], arrays["masks"]
    right = masks.ndim == 3 and len(masks) == about["count"] and images.shape == (*masks.shape, 3)
    right &= all(array.dtype == np.uint8 and array.flags.c_contiguous for array in arrays.values())
    return arrays if right else None


def _remove_others(place: Path, kept: Path) -> None:
    """Remove the copies of earlier states of the same files, and what builders that died have left.

    A process that still maps a copy keeps its own view.
    """
    now = kept.stat().st_mtime  # by the clock of the disk, which may be another machine's
    for folder in place.iterdir():
        is_being_built = folder.name.startswith(".building-") and now - folder.stat().st_mtime < ABANDONED
        if folder != kept and not is_being_built:
            shutil.rmtree(folder, ignore_errors=True)
