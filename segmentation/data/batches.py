"""Batches of a split, in any order."""

from collections.abc import Iterator

import numpy as np
import torch

from segmentation.data import Originals, Split
from segmentation.devices import to_device
from segmentation.system.progress import progress


def index_batches(order: np.ndarray, size: int, shares: int = 1) -> list[np.ndarray]:
    """Cut an order of images into batches of `size`; too few images left over join the batch before them.

    Batch norm over a 1 x 1 feature map needs two values, so a batch of one would stop training. A batch is split into
    `shares`, one for each process, and each share needs two images wherever a whole batch has that many for it.
    """
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < min(size, 2 * shares):
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return batches


def in_order(split: Split | Originals, size: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole split in its own order, batch by batch, on the device, with a progress bar."""
    with progress(f"scoring {split.dataset}/{split.name}", len(split)) as bar:
        for indices in index_batches(np.arange(len(split)), size):
            images, masks = split.gather(indices)
            images, masks = to_device(device, images, masks)
            yield images, masks
            bar.update(len(indices))
