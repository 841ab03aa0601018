"""A split as a person sees it: masks at each image's own size, nothing cut away."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data.cache import Split
from segmentation.data.preparation import resize_image
from segmentation.data.source import Source


@dataclass(frozen=True)
class Originals:
    """Whole pictures, resized as for training but not cropped, with masks as they were found; one at a time."""

    split: Split
    """The same pictures, prepared."""
    source: Source
    config: DataConfig

    @property
    def dataset(self) -> str:
        return self.split.dataset

    @property
    def name(self) -> str:
        return self.split.name

    @property
    def labels(self) -> Classes:
        return self.split.labels

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    @property
    def digests(self) -> Sequence[str]:
        return self.split.digests

    @property
    def fingerprint(self) -> str:
        return self.split.fingerprint

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The one image asked for, `(1, 3, h, w)` uint8, and its mask `(1, H, W)` uint8."""
        (index,) = indices
        picture = self.source.read(index)
        image = np.array(resize_image(picture.image, self.config))
        return torch.from_numpy(image)[None].permute(0, 3, 1, 2), torch.from_numpy(np.array(picture.mask))[None]
