"""Logits of a whole split in a temporary file, for many passes over them in constant memory."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch

from segmentation.errors import InputError
from segmentation.scoring.logit_checks import check_shapes

LARGE_FILES = Path("/var/tmp")  # noqa: S108  only a folder: the file in it gets a random name
"""Default folder of the file; `/tmp` is often in memory."""


IMAGE_TYPES = (torch.uint8, torch.uint16)


class _Batch(NamedTuple):
    """Position and shape of a batch in the file."""

    start: int
    """Offset in bytes."""
    sizes: tuple[int, int, int, int]
    """B, C, H, W."""
    channels: int
    """N."""
    dtype: np.dtype
    """Of the images."""
    device: torch.device


class StoredLogits:
    """Logits, images and labels of a split in a temporary file, written and read batch by batch.

    The file is in the folder TMPDIR, by default `/var/tmp`. It is deleted at the end of the `with` block, or when the
    process dies. It takes `4 C + 1` bytes per pixel, and those of the images.

    Example:
        >>> with StoredLogits() as stored:
        ...     stored.add(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 3, 4).byte(), torch.ones(1, 3, 4).byte())
        ...     [tuple(logits.shape) for logits, images, labels in stored.batches()]
        [(1, 2, 3, 4)]
    """

    def __init__(self) -> None:
        default = LARGE_FILES if os.access(LARGE_FILES, os.W_OK) else Path(tempfile.gettempdir())
        self._folder = Path(os.environ.get("TMPDIR") or default)
        self._batches: list[_Batch] = []
        self._end = 0
        try:
            # unbuffered, so that a full disk fails in `add` and not when the file is closed
            self._file = tempfile.TemporaryFile(buffering=0, prefix="logits-", dir=self._folder)  # noqa: SIM115  closed by `__exit__`
        except OSError as error:
            raise self._no_room(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Number of images."""
        return sum(batch.sizes[0] for batch in self._batches)

    def add(self, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Append a batch. Batches may differ in size.

        Args:
            logits: `(B, C, H, W)` floating point; stored as float32.
            images: `(B, N, H, W)` uint8 or uint16.
            labels: `(B, H, W)` class indices, 255 is void.

        Raises:
            InputError: the disk is full.
            ValueError: a shape, a type or a label is wrong.
        """
        check_images(logits, images)
        check_shapes(logits, labels)
        count, classes, height, width = logits.shape
        pixels = images.detach().cpu()
        batch = _Batch(
            self._end, (count, classes, height, width), images.shape[1], pixels.numpy().dtype, logits.device
        )  # fmt: skip
        try:
            self._file.seek(self._end)
            for tensor, dtype in ((logits, torch.float32), (pixels, pixels.dtype), (labels, torch.uint8)):
                content = _bytes(tensor.detach().to("cpu", dtype).contiguous().numpy())
                self._end += len(content)
                while content:
                    content = content[self._file.write(content) :]
        except OSError as error:
            raise self._no_room(error) from error
        self._batches.append(batch)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield logits (float32), images and labels (uint8) of each batch, in the order and on the device of `add`."""
        for start, (count, classes, height, width), channels, dtype, device in self._batches:
            logits = np.empty((count, classes, height, width), np.float32)
            images = np.empty((count, channels, height, width), dtype)
            labels = np.empty((count, height, width), np.uint8)
            self._file.seek(start)  # another pass may have moved the position
            for array in (logits, images, labels):
                self._fill(array)
            yield (
                torch.from_numpy(logits).to(device),
                torch.from_numpy(images).to(device),
                torch.from_numpy(labels).to(device),
            )

    def _fill(self, array: np.ndarray) -> None:
        rest = _bytes(array)
        while rest:
            count = self._file.readinto(rest)
            if not count:
                raise InputError(f"the logits stored in {self._folder} are truncated: check that disk")
            rest = rest[count:]

    def _no_room(self, error: OSError) -> InputError:
        return InputError(
            f"the model's logits could not be stored in {self._folder}: {error.strerror} after {len(self)} images and "
            f"{self._end / 1e9:.1f} GB. Make room there, or set TMPDIR to a folder on a larger disk"
        )


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def check_images(logits: torch.Tensor, images: torch.Tensor) -> None:
    """Raise a `ValueError` unless images are `(B, N, H, W)` uint8 or uint16, as many and as large as the logits."""
    expected = (logits.shape[0], *logits.shape[2:])
    if images.ndim != 4 or (len(images), *images.shape[2:]) != expected or images.dtype not in IMAGE_TYPES:
        raise ValueError(
            f"images must be torch.uint8 or torch.uint16 of the size of logits {tuple(logits.shape)}, not "
            f"{images.dtype} {tuple(images.shape)}"
        )
