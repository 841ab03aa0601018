"""Batches that are ready when they are needed: a thread prepares the next one while the model trains on this one."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from segmentation.devices import to_device

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Images of one rank, their masks, and the random numbers of their augmentation; see `Augmentation`."""

    images: torch.Tensor
    """`(B, C, H, W)`."""
    masks: torch.Tensor
    """`(B, H, W)` uint8."""
    draws: torch.Tensor
    """One row of random numbers for each image; they stay on the CPU."""
    size: int
    """Number of images of all ranks."""
    is_labelled: bool
    """Whether an image of any rank has a pixel that is not void."""


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """Yield the items; a thread computes the next one while the caller uses this one."""
    with ThreadPoolExecutor(1, "next-batch") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def on_device(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """Yield the batches on a device, prepared by a thread.

    For a GPU, the thread also copies a batch into pinned memory and from there to the GPU, on a stream of its own, so
    that the copy runs beside the kernels of the batch before.
    """
    if device.type != "cuda":
        for batch in ahead(batches):
            images, masks = to_device(device, batch.images, batch.masks)
            yield batch._replace(images=images, masks=masks)
        return
    stream = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[Batch, torch.cuda.Event]]:
        for batch in batches:
            with torch.cuda.stream(stream):
                images, masks = (each.pin_memory().to(device, non_blocking=True) for each in batch[:2])
            yield batch._replace(images=images, masks=masks), stream.record_event()

    for batch, event in ahead(copied()):
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for each in (batch.images, batch.masks):
            each.record_stream(current)  # its memory is free for another batch only after the kernels that use it
        yield batch
