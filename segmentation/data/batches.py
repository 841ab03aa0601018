"""Divides a split into batches, and iterates over them."""

from collections.abc import Iterator

import numpy as np
import torch

from segmentation.data import Originals, Split
from segmentation.devices import to_device
from segmentation.system.progress import progress


def index_batches(order: np.ndarray, size: int, shards: int = 1) -> list[np.ndarray]:
    """Split image indices into batches of `size`. A last batch that is too small is appended to the previous one.

    Batch norm over a 1 x 1 feature map needs two values, so a batch of one image would raise an error. Each process
    takes one of `shards` parts of a batch, and each part needs two images, unless `size` itself allows for fewer.
    """
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < min(size, 2 * shards):
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return batches


def equal_batches(split: Split | Originals, indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Split image indices into batches of at most about `size` images in order, each of images of one size."""
    if isinstance(split, Originals):
        return index_batches(indices, 1)
    changes = np.flatnonzero((np.diff(split.sizes[indices], axis=0) != 0).any(1)) + 1
    return [batch for part in np.split(indices, changes) for batch in index_batches(part, size)]


def in_order(split: Split | Originals, size: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and masks of the whole split in order, in batches on `device`, with a progress bar.

    A batch holds images of one size.
    """
    with progress(f"scoring {split.title}", len(split)) as bar:
        for indices in equal_batches(split, np.arange(len(split)), size):
            images, masks = split.gather(indices)
            images, masks = to_device(device, images, masks)
            yield images, masks
            bar.update(len(indices))
