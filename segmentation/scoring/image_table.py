"""Table on disk with one row of named arrays per image, so that memory does not grow with the number of images."""

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from segmentation.errors import InputError

BLOCK = 256
"""Images read at a time."""


class ImageTable:
    """One row of named arrays per image, in a temporary file that is deleted with the table.

    Images may be numbered. Rows are then read in the order of the numbers, and an image that is added again is ignored:
    a distributed sampler repeats images to fill its last batch. Images without numbers all count, in the order in which
    they are added.
    """

    def __init__(self, columns: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
        self._row = np.dtype([(name, dtype, shape) for name, (dtype, shape) in columns.items()])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._images: list[int] = []
        self._known: set[int] = set()
        self._numbered: bool | None = None
        self.totals = {
            name: np.zeros(shape, np.float64 if np.dtype(dtype).kind == "f" else np.int64)
            for name, (dtype, shape) in columns.items()
        }
        """Sum of each column over the images: float64, or int64 for integers."""

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> np.ndarray:
        """`(N,)` numbers of the images, ascending."""
        return np.sort(np.array(self._images, np.int64))

    def append(self, columns: Mapping[str, np.ndarray], images: Sequence[int] | None = None) -> None:
        """Add rows.

        Args:
            columns: `(B, ...)` by name.
            images: numbers of the `B` images; either all rows of a table are numbered or none.

        Raises:
            ValueError: only some images are numbered.
        """
        rows = np.empty(len(next(iter(columns.values()))), self._row)
        for name in self.totals:
            rows[name] = columns[name]
        self._append(images, rows)

    def extend(self, other: "ImageTable") -> None:
        """Add the rows of another table, except numbered images that this one has."""
        for start in range(0, len(other), BLOCK):
            stop = min(start + BLOCK, len(other))
            images = other._images[start:stop] if other._numbered else None
            self._append(images, other._read(np.arange(start, stop)))

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the columns in the order of the images' numbers, `BLOCK` images at a time."""
        order = np.argsort(np.array(self._images, np.int64), kind="stable")
        for start in range(0, len(order), BLOCK):
            rows = self._read(order[start : start + BLOCK])
            yield {name: rows[name] for name in self.totals}

    def column(self, name: str) -> np.ndarray:
        """One column of all images, `(N, ...)`."""
        return np.concatenate([self.column_of_none(name), *(block[name] for block in self.blocks())])

    def column_of_none(self, name: str) -> np.ndarray:
        """An empty column, `(0, ...)`, of the right type and shape."""
        return np.empty(0, self._row)[name]

    def _append(self, images: Sequence[int] | None, rows: np.ndarray) -> None:
        if self._numbered is None:
            self._numbered = images is not None
        if self._numbered != (images is not None):
            raise ValueError("images: some have numbers and some have none; number all images or none")
        numbers = range(len(self), len(self) + len(rows)) if images is None else images
        assert len(numbers) == len(rows)
        fresh = []
        for row, number in enumerate(numbers):
            if number not in self._known:
                fresh.append(row)
                self._images.append(number)
                self._known.add(number)
        rows = rows[fresh]
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(rows.tobytes())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"the counts of the images could not be written to {tempfile.gettempdir()}: {error.strerror}. Make "
                f"room there, or set TMPDIR to another folder"
            ) from error
        for name, total in self.totals.items():
            total += rows[name].sum(0, total.dtype)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        size = self._row.itemsize
        content = bytearray(len(indices) * size)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(indices)], strict=True):  # ranges of consecutive rows
            if start < stop:
                self._file.seek(int(indices[start]) * size)
                self._file.readinto(memoryview(content)[start * size : stop * size])
        return np.frombuffer(content, self._row)
