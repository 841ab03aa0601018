"""Reads `.npz` files that may be damaged or hostile: unpickles nothing, and checks every size before reading."""

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segmentation.errors import InputError
from segmentation.io.archives import opened

MAX_BYTES = 2**32
"""Limit on all arrays of a file together: scores of 9,000 images with 254 classes, or of 300,000 images with two."""
MAX_HEADER_BYTES = 2**12
"""Limit on an array's header; a typical header has a few hundred bytes."""


class ArrayHeader(NamedTuple):
    """Type and shape of a stored array."""

    dtype: np.dtype
    shape: tuple[int, ...]


class StoredArrays:
    """The arrays of one open `.npz` file."""

    def __init__(self, file: Path, archive: zipfile.ZipFile) -> None:
        self.file = file
        self._archive = archive
        self.known = {name.removesuffix(".npy"): self._header(name) for name in archive.namelist()}
        """Type and shape of every array, by its name."""

    def read(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named arrays, or all of them.

        Raises:
            InputError: an array is missing or damaged.
        """
        missing = [name for name in names or () if name not in self.known]
        if missing:
            raise InputError(f"{self.file} is damaged or of another version: it has no array {missing[0]!r:.80}")
        return {name: self._array(name) for name in (self.known if names is None else names)}

    def _array(self, name: str) -> np.ndarray:
        with self._archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=MAX_HEADER_BYTES)

    def _header(self, record: str) -> ArrayHeader:
        size = self._archive.getinfo(record).file_size
        with self._archive.open(record) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)) or not record.endswith(".npy"):
                raise InputError(f"{self.file} is damaged: {record!r:.80} is not an array of a known version")
            read_header = np.lib.format.read_array_header_1_0
            if version == (2, 0):
                read_header = np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(stream, max_header_size=MAX_HEADER_BYTES)
            if dtype.hasobject:
                raise InputError(f"{self.file}: {record!r:.80} holds Python objects, which are never unpickled")
            expected = dtype.itemsize
            for length in shape:  # Python integers cannot overflow
                expected *= length
            if min(shape, default=0) < 0 or not dtype.itemsize or stream.tell() + expected != size:
                raise InputError(f"{self.file} is damaged: the length of {record!r:.80} does not match shape {shape}")
        return ArrayHeader(dtype, shape)


@contextmanager
def stored_arrays(file: Path) -> Iterator[StoredArrays]:
    """Open an `.npz` file. Any exception inside the block is raised as an error about a damaged file.

    Raises:
        InputError: the file does not exist, is damaged, is larger than `MAX_BYTES`, or holds Python objects.
    """
    with opened(file, MAX_BYTES) as archive:
        yield StoredArrays(file, archive)
