"""Arrays read from an `.npz` file without trust: nothing is unpickled, and what they will take is known before."""

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segmentation.errors import InputError
from segmentation.io.archives import opened

LARGEST = 2**32
"""Bytes of all arrays of a file together: scores of 9,000 images with 254 classes, or of 300,000 with two."""
LONGEST_HEADER = 2**12
"""Bytes of what stands before an array's values; one of a few hundred is usual."""


class StoredArray(NamedTuple):
    """An array of a file, before it is read."""

    dtype: np.dtype
    shape: tuple[int, ...]


class StoredArrays:
    """The arrays of one `.npz` file."""

    def __init__(self, file: Path, archive: zipfile.ZipFile) -> None:
        self.file = file
        self._archive = archive
        self.known = {name.removesuffix(".npy"): self._about(name) for name in archive.namelist()}
        """All of them, by name."""

    def read(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Those of some names, or all.

        Raises:
            InputError: one is not there, or damaged.
        """
        missing = [name for name in names or () if name not in self.known]
        if missing:
            raise InputError(f"{self.file} is damaged or of another version: it holds no {missing[0]!r:.80}")
        return {name: self._array(name) for name in (self.known if names is None else names)}

    def _array(self, name: str) -> np.ndarray:
        with self._archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=LONGEST_HEADER)

    def _about(self, record: str) -> StoredArray:
        size = self._archive.getinfo(record).file_size
        with self._archive.open(record) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)) or not record.endswith(".npy"):
                raise InputError(f"{self.file} is damaged: {record!r:.80} is no array of a known version")
            read_header = np.lib.format.read_array_header_1_0
            if version == (2, 0):
                read_header = np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(stream, max_header_size=LONGEST_HEADER)
            if dtype.hasobject:
                raise InputError(f"{self.file}: {record!r:.80} holds objects, which are not unpickled")
            values = dtype.itemsize
            for length in shape:  # whole numbers without end, not numpy's
                values *= length
            if min(shape, default=0) < 0 or not dtype.itemsize or stream.tell() + values != size:
                raise InputError(f"{self.file} is damaged: {record!r:.80} is not as long as its shape {shape} says")
        return StoredArray(dtype, shape)


@contextmanager
def stored_arrays(file: Path) -> Iterator[StoredArrays]:
    """The arrays of an `.npz` file; every error inside the block tells that the file is damaged.

    Raises:
        InputError: it is not there, damaged, larger than `LARGEST`, or holds objects.
    """
    with opened(file, LARGEST) as archive:
        yield StoredArrays(file, archive)
