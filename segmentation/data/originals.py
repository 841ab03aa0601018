"""A split at original size: images are not cropped, and masks keep the size of their files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data.preparation import resize_image
from segmentation.data.source import Source
from segmentation.data.split import Split
from segmentation.io.channels import as_array

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Originals:
    """Images resized as in training but not cropped, and masks at their original size; read one at a time."""

    split: Split
    """The same images after preparation."""
    source: Source
    config: DataConfig

    @property
    def dataset(self) -> str:
        return self.split.dataset

    @property
    def name(self) -> str:
        return self.split.name

    @property
    def title(self) -> str:
        return self.split.title

    @property
    def labels(self) -> Classes:
        return self.split.labels

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    @property
    def channels(self) -> int:
        return self.split.channels

    @property
    def bits(self) -> int:
        return self.split.bits

    @property
    def digests(self) -> Sequence[str]:
        return self.split.digests

    @property
    def fingerprint(self) -> str:
        return self.split.fingerprint

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, indices: np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return one image `(1, C, h, w)` and its mask `(1, H, W)` uint8. `indices` must hold one index."""
        import torch

        (index,) = indices
        original = self.source.read(index)
        image = as_array(resize_image(original.image, self.config))
        return torch.from_numpy(image)[None].permute(0, 3, 1, 2), torch.from_numpy(np.array(original.mask))[None]
