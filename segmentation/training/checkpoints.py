"""A training run on disk: all that is needed to go on with it, or to use its network elsewhere."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.models.state_dicts import read_pickled

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch. It refers to the living tensors: save it before training goes on.

    The order of images and every random change follow from the seed and the epoch's number, so no generator's state
    is needed.
    """

    config: dict[str, Any]
    class_names: list[str]
    palette: list[list[int]]
    fingerprint: str
    epoch: int
    """Epochs finished."""
    best_epoch: int
    best_value: float
    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """State of the gradient scaler, empty unless training in float16."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Figures of every epoch by name, put in by who records them; empty if nobody does."""

    @property
    def labels(self) -> Classes:
        """The classes that the network tells apart."""
        return Classes(tuple(self.class_names), tuple((r, g, b) for r, g, b in self.palette))


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint so that `file` is always whole: the old one or the new one."""
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
        kept = "; the one before it is intact" if file.is_file() else "; choose another checkpoint_dir"
        raise InputError(f"the checkpoint {file} could not be written: {error}{kept}") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a checkpoint has left in a folder."""
    for name in ("best.pt", "last.pt"):
        for left in folder.glob(f".{name}-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def keep_as(file: Path, other: Path) -> None:
    """Keep what a checkpoint file holds now under a second name, without writing it again where links can be made."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{other.name}-", dir=other.parent) as temporary:
            link = Path(temporary) / other.name
            try:
                link.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, link)
            link.replace(other)
    except OSError as error:
        raise InputError(f"the checkpoint {other} could not be written: {error}; {file} is intact") from error


def load(file: Path) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Raises:
        InputError: the file is missing, damaged, or not one of ours.
    """
    try:
        content = read_pickled(file)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {file} does not exist") from error
    except Exception as error:  # readers of damaged files raise nearly anything
        raise InputError(f"{file} is not a checkpoint of this program, or it is damaged") from error
    names = {each.name for each in fields(Checkpoint)}
    if isinstance(content, dict):
        content.setdefault("history", [])  # which the first versions did not keep
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT or content.keys() != names:
        raise InputError(f"{file} is not a checkpoint of this program (format {FORMAT})")
    return Checkpoint(**content)
