"""Checkpoint files: the state of a run after an epoch, from which it resumes or its model is loaded."""

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.io.pickled import read_pickled

FORMAT = 1
NAMES = ("best.pt", "last.pt")
"""Names of a run's checkpoint files: that of the best epoch, and that of the last one, from which it resumes."""


@dataclass(frozen=True)
class Checkpoint:
    """State after an epoch. It refers to the tensors of the model: save or copy it before the next epoch starts.

    It contains no random state, because order, crops and augmentation follow from the seed and the epoch's number.
    """

    config: dict[str, Any]
    class_names: list[str]
    palette: list[list[int]]
    fingerprint: str
    epoch: int
    """Number of finished epochs."""
    best_epoch: int
    best_value: float
    """Value of `monitor` after the best epoch."""
    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """State of the gradient scaler; empty unless `precision=float16`."""
    trained: dict[str, torch.Tensor] = field(default_factory=dict)
    """Weights that training resumes from if `network` is their moving average (`ema`); otherwise empty."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch by name, added by the caller of `train`; empty by default."""
    best_loss: float = math.nan
    """Validation loss after the best epoch; NaN if unknown."""
    code: dict[str, Any] | None = None
    """`ModelCode.as_values` of a user's own model; None for torchvision's."""

    @property
    def labels(self) -> Classes:
        """Classes of the model."""
        return Classes(tuple(self.class_names), tuple((r, g, b) for r, g, b in self.palette))


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint atomically: `file` always contains the complete old or the complete new one."""
    content = {"format": FORMAT} | {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                torch.save(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        advice = "the previous checkpoint is intact" if file.is_file() else "set another checkpoint_dir"
        reason = str(error)
        if isinstance(error, RuntimeError):  # torch's writer does not name what the system refused
            with suppress(OSError):
                free = shutil.disk_usage(file.parent).free
                reason = f"the disk may be full, {shown_size(free)} are free ({error})"
        raise InputError(f"checkpoint {file} could not be written: {reason}; {advice}") from error


def check_folder(folder: Path) -> None:
    """Raise an `InputError` unless checkpoints can be written to a folder, which need not exist."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise InputError(f"checkpoint_dir={folder}: {existing} is a file; name a folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"checkpoint_dir={folder}: {existing} cannot be written: {reason}; name another folder"
        ) from error


class Writer:
    """Writes the checkpoints of a run by a thread, from copies in memory, while the model is trained on.

    Where epochs are shorter than the writing of a checkpoint, a newer checkpoint takes the place of one that waits, so
    that nothing waits for the disk. Only the first one is waited for: a run with an epoch can be resumed. One
    checkpoint is being written and one waits, at most: the copies take twice the size of a checkpoint in memory, 0.5 GB
    for FCN-ResNet-50 with momentum.
    """

    def __init__(self, folder: Path) -> None:
        """Start a thread. `best.pt` and `last.pt` of this folder are written."""
        self._folder = folder
        self._changed = threading.Condition()
        self._waiting: _Waiting | None = None
        self._written: Checkpoint | None = None
        """The last one that was written; its memory is used again."""
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def save(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Copy a checkpoint and have it written as `last.pt`, and as `best.pt` if it is the best so far.

        Raises:
            InputError: an earlier checkpoint could not be written.
        """
        with self._changed:
            if self._waiting is not None and self._waiting.is_best and not is_best:
                self._changed.wait_for(lambda: self._waiting is None)  # as best.pt it is still needed
            self.check()
            old, self._written = (self._written, None) if self._waiting is None else (self._waiting.copy, self._written)
            self._waiting = None
            self._waiting = _Waiting(_copied(checkpoint, old), is_best)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            if not (self._folder / NAMES[1]).is_file():
                self._changed.wait_for(lambda: self._written is not None or self._error is not None)
                self.check()

    def close(self) -> None:
        """Wait until everything is written; `check` then raises the error of a checkpoint that could not be."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise the `InputError` of a checkpoint that could not be written, if there is one."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting is not None or self._is_closed)
                    if self._waiting is None:
                        return
                    found, self._waiting = self._waiting, None
                    self._changed.notify_all()
                best, last = (self._folder / name for name in NAMES)
                save(found.copy, best if found.is_best else last)
                if found.is_best:
                    keep_as(best, last)
                with self._changed:
                    self._written = found.copy
                    self._changed.notify_all()
        except BaseException as error:  # `check` raises it in the caller's thread
            with self._changed:
                self._error, self._waiting = error, None
                self._changed.notify_all()


class _Waiting(NamedTuple):
    copy: Checkpoint
    is_best: bool


def _copied(checkpoint: Checkpoint, old: Checkpoint | None) -> Checkpoint:
    """A checkpoint whose tensors are copies in the memory of the host, of an `old` copy where they fit."""
    values = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    copy = Checkpoint(**{name: _copy(value, getattr(old, name, None)) for name, value in values.items()})
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copy


def _copy(value: Any, old: Any) -> Any:
    if isinstance(value, torch.Tensor):
        fits = isinstance(old, torch.Tensor) and (old.shape, old.dtype, old.stride()) == (
            value.shape, value.dtype, value.stride(),
        )  # fmt: skip
        is_cuda = value.device.type == "cuda"
        into = old if fits else torch.empty_like(value, device="cpu", pin_memory=is_cuda)
        return into.copy_(value.detach(), non_blocking=is_cuda)
    if isinstance(value, dict):
        return {key: _copy(each, old.get(key) if isinstance(old, dict) else None) for key, each in value.items()}
    if isinstance(value, list):
        others = old if isinstance(old, list) and len(old) == len(value) else [None] * len(value)
        return [_copy(*pair) for pair in zip(value, others, strict=True)]
    return value


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote a checkpoint to this folder."""
    for name in NAMES:
        for path in folder.glob(f".{name}-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def remove_unneeded(folder: Path, keep: str) -> int:
    """Remove the checkpoint that a finished run no longer needs; return its size in bytes.

    Args:
        folder: that of the run.
        keep: `best` or `last`, the checkpoint that holds the run's model. If it is the only one, nothing is removed.
    """
    kept = folder / f"{keep}.pt"
    (other,) = (file for name in NAMES if (file := folder / name) != kept)
    if not (kept.is_file() and other.is_file()):
        return 0
    size = size_of([kept, other]) - size_of([kept])
    other.unlink()
    return size


def shown_size(size: int) -> str:
    """Return a number of bytes in MB, as text."""
    return f"{size / 1e6:.1f} MB"


def size_of(files: Iterable[Path]) -> int:
    """Return the bytes that files take on the disk; hard links to one file count once."""
    found = {(state.st_dev, state.st_ino): state.st_size for state in (file.stat() for file in files)}
    return sum(found.values())


def keep_as(file: Path, other: Path) -> None:
    """Give a checkpoint file a second name: as a hard link, or as a copy where links are not possible."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{other.name}-", dir=other.parent) as temporary:
            link = Path(temporary) / other.name
            try:
                link.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, link)
            link.replace(other)
    except OSError as error:
        raise InputError(f"checkpoint {other} could not be written: {error}; {file} is intact") from error


def load(file: Path) -> Checkpoint:
    """Read a checkpoint; code in the file is not executed.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this program.
    """
    try:
        content = read_pickled(file)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {file} does not exist") from error
    except Exception as error:  # reading a damaged file can raise almost any exception
        raise InputError(f"{file} is not a checkpoint of this program, or it is damaged") from error
    names = {each.name for each in fields(Checkpoint)}
    if isinstance(content, dict):
        # missing in files of earlier versions
        content = {"history": [], "trained": {}, "best_loss": math.nan, "code": None} | content
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT or content.keys() != names:
        raise InputError(f"{file} is not a checkpoint of this program (format {FORMAT})")
    return Checkpoint(**content)
