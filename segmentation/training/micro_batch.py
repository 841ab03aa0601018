"""`micro_batch=auto`: the largest number of images per forward pass whose training step fits the memory.

On CUDA, steps of a copy of the model run until one fits. On other devices memory that is too small ends the process, so
the memory is estimated: the bytes that autograd saves for the backward pass, measured with a few images, grow linearly
with their number.
"""

import copy
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from segmentation.config import TrainingConfig
from segmentation.errors import InputError, counted
from segmentation.models.segmenter import Segmenter
from segmentation.training.batch_norm import layers_of
from segmentation.training.process_group import ProcessGroup
from segmentation.training.step import TrainingStep

MEASURED = (2, 4)
"""Numbers of images whose memory is measured; batch norm may need more than one."""
TEMPORARY = 1.25
"""Memory of a step over that of the saved tensors: gradients of activations, and workspaces of convolutions."""
USABLE = 0.8
"""Fraction of the available memory that a step may take; other programs may take more meanwhile."""
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux states the memory limit of a container."""


class Choice(NamedTuple):
    """The chosen number of images per forward pass."""

    images: int
    line: str
    """What was chosen, and why."""


def choose_micro_batch(
    model: Segmenter, config: TrainingConfig, device: torch.device, classes: int, size: tuple[int, int]
) -> Choice:
    """Return the largest `batch_size / 2**k` images, rounded up, whose training step fits the memory of the device.

    Args:
        model: unchanged.
        config: with `batch_size` and `processes`, which share the batch.
        device: where it is trained.
        classes: number of classes.
        size: height and width of the training images.

    Raises:
        InputError: not even the smallest number fits.
    """
    whole = -(-config.batch_size // config.processes)
    smallest = 2 if layers_of(model) else 1
    numbers = halvings(whole, smallest)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            images = largest_that_fits(numbers, lambda number: _runs(model, config, device, classes, size, number))
            total = torch.cuda.get_device_properties(device).total_memory
            why = f"the largest number that fits the {_shown(total)} of {device}"
        else:
            estimate = estimate_memory(model, config, device, classes, size)
            available = available_memory() // config.processes
            images = largest_that_fits(numbers, lambda number: estimate(number) <= USABLE * available)
            why = f"about {_shown(estimate(images or smallest))} of {_shown(available)} available memory"
            if images not in (None, whole):
                why += f"; all {whole} would need {_shown(estimate(whole))}"
    if images is None:
        raise InputError(
            f"micro_batch=auto: not even {counted(numbers[-1], 'image')} of {size[1]} x {size[0]} pixels per forward "
            f"pass fit the memory: set a smaller crop, or another model"
        )
    each = " in each process" if config.processes > 1 else ""
    how_many = f"all {whole}" if images == whole else f"{images} of {whole}"
    return Choice(images, f"micro_batch=auto: {how_many} images of a step{each} per forward pass ({why}).")


def halvings(whole: int, smallest: int) -> list[int]:
    """Return `whole`, its half, its quarter and so on, rounded up, down to `smallest`."""
    numbers = [max(1, whole)]
    while (half := -(-numbers[-1] // 2)) >= smallest and half < numbers[-1]:
        numbers.append(half)
    return numbers


def largest_that_fits(numbers: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the first of the numbers, given from large to small, that fits; None if none does."""
    return next((number for number in numbers if fits(number)), None)


def estimate_memory(
    model: Segmenter, config: TrainingConfig, device: torch.device, classes: int, size: tuple[int, int]
) -> Callable[[int], int]:
    """Return a function that estimates the bytes of a training step from its number of images.

    Two measured steps give the bytes per image and the rest. Gradients and the state of the optimizer are added.
    """
    first, second = (saved_bytes(model, config, device, classes, size, images) for images in MEASURED)
    per_image = (second - first) / (MEASURED[1] - MEASURED[0])
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    copies = 1 + (2 if config.optimizer == "adamw" else int(config.momentum > 0)) + int(config.ema is not None)

    def estimate(images: int) -> int:
        return int(TEMPORARY * (first + per_image * (images - MEASURED[0])) + copies * weights)

    return estimate


def saved_bytes(
    model: Segmenter, config: TrainingConfig, device: torch.device, classes: int, size: tuple[int, int], images: int
) -> int:
    """Return the bytes that one training step saves for its backward pass, without the weights."""
    copied = copy.deepcopy(model)
    step = _step(copied, config, device, images)
    with counting_saved_bytes((*copied.parameters(), *copied.buffers())) as counted:
        step(*_batch(model, classes, size, images, device), images)
    return sum(counted.values())


@contextmanager
def counting_saved_bytes(without: Iterable[torch.Tensor]) -> Iterator[dict[int, int]]:
    """Inside the `with`, collect the bytes of every storage that autograd saves, by address; views count once.

    Args:
        without: tensors that are in memory anyway.
    """
    known = {each.untyped_storage().data_ptr() for each in without}
    counted: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # an address must not be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            counted[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted
    kept.clear()


def available_memory() -> int:
    """Return the bytes that this process can still take, within the limit of its container if there is one."""
    available = int(psutil.virtual_memory().available)
    for limit, used in (
        (CGROUP / "memory.max", CGROUP / "memory.current"),
        (CGROUP / "memory/memory.limit_in_bytes", CGROUP / "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int(limit.read_text()) - int(used.read_text()) + _reclaimable(limit.parent / "memory.stat")
        except (OSError, ValueError):  # no such file, or no limit (`max`)
            continue
        available = min(available, max(0, left))
    return available


def _reclaimable(file: Path) -> int:
    """Return the bytes of cached files that Linux counts as used and gives back when needed."""
    try:
        values = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(values.get("inactive_file", 0))


def _runs(
    model: Segmenter, config: TrainingConfig, device: torch.device, classes: int, size: tuple[int, int], images: int
) -> bool:
    """Return whether two steps run on CUDA: the second one also holds the state of the optimizer."""
    try:
        step = _step(copy.deepcopy(model), config, device, images)
        for _ in range(2):
            step(*_batch(model, classes, size, images, device), images)
        torch.cuda.synchronize(device)
        return True
    except (torch.OutOfMemoryError, InputError) as error:
        if not isinstance(error.__cause__ or error, torch.OutOfMemoryError):
            raise
        return False
    finally:
        step = None  # type: ignore[assignment]
        gc.collect()
        torch.cuda.empty_cache()


def _step(model: Segmenter, config: TrainingConfig, device: torch.device, images: int) -> TrainingStep:
    model.train()
    # the loss does not count here: a learning rate of 0 keeps it finite
    config = replace(config, micro_batch=images, learning_rate=0.0, loss=TrainingConfig.loss, processes=1)
    return TrainingStep(model, config, device, ProcessGroup())


def _batch(
    model: Segmenter, classes: int, size: tuple[int, int], images: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images `(B, C, H, W)` and masks `(B, H, W)`, uint8, channels last in memory as those of a split."""
    pixels = torch.randint(0, 256, (images, *size, model.channels), dtype=torch.uint8, device=device)
    return pixels.permute(0, 3, 1, 2), torch.randint(0, classes, (images, *size), dtype=torch.uint8, device=device)


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
