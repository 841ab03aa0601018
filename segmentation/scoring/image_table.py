"""What was measured on each image: named arrays with one row an image, on disk, so that memory stays flat."""

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from segmentation.errors import InputError

BLOCK = 256
"""Images that are read at a time."""


class ImageTable:
    """Rows of named arrays, one for each image, in a temporary file that vanishes with the table.

    Images can be numbered by who adds them. Then rows are read in the order of these numbers, whatever the order in
    which they came, and an image that comes again, as it does from a distributed sampler that fills up its last batch,
    is left out. Images that nobody numbers all count, in the order in which they come.
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
        """Sum of each column over the images: float64, or int64 for whole numbers."""

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
            images: numbers of the `B` images, for all rows of the table or for none.

        Raises:
            ValueError: only some images are numbered, so that nobody could tell which come again.
        """
        rows = np.empty(len(next(iter(columns.values()))), self._row)
        for name in self.totals:
            rows[name] = columns[name]
        self._append(images, rows)

    def extend(self, other: "ImageTable") -> None:
        """Add the rows of another table; numbered images that this one knows are left out."""
        for start in range(0, len(other), BLOCK):
            stop = min(start + BLOCK, len(other))
            images = other._images[start:stop] if other._numbered else None
            self._append(images, other._read(np.arange(start, stop)))

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """The columns in the order of the images' numbers, `BLOCK` images at a time."""
        order = np.argsort(np.array(self._images, np.int64), kind="stable")
        for start in range(0, len(order), BLOCK):
            rows = self._read(order[start : start + BLOCK])
            yield {name: rows[name] for name in self.totals}

    def column(self, name: str) -> np.ndarray:
        """One column of all images, `(N, ...)`, in memory."""
        return np.concatenate([self.column_of_none(name), *(block[name] for block in self.blocks())])

    def column_of_none(self, name: str) -> np.ndarray:
        """The column of no images, `(0, ...)`: its type and shape."""
        return np.empty(0, self._row)[name]

    def _append(self, images: Sequence[int] | None, rows: np.ndarray) -> None:
        if self._numbered is None:
            self._numbered = images is not None
        if self._numbered != (images is not None):
            raise ValueError("some images are numbered and some are not: number all of them, or none")
        numbers = range(len(self), len(self) + len(rows)) if images is None else images
        assert len(numbers) == len(rows)
        fresh = []
        for place, number in enumerate(numbers):
            if number not in self._known:
                fresh.append(place)
                self._images.append(number)
                self._known.add(number)
        rows = rows[fresh]
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(rows.tobytes())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"what was measured could not be kept in {tempfile.gettempdir()}: {error.strerror}; make room there, "
                f"or set TMPDIR to another folder"
            ) from error
        for name, total in self.totals.items():
            total += rows[name].sum(0, total.dtype)

    def _read(self, places: np.ndarray) -> np.ndarray:
        size = self._row.itemsize
        content = bytearray(len(places) * size)
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(places)], strict=True):  # rows that lie one after the other
            if start < stop:
                self._file.seek(int(places[start]) * size)
                self._file.readinto(memoryview(content)[start * size : stop * size])
        return np.frombuffer(content, self._row)
