from dataclasses import replace

import numpy as np
import torch

from segmentation.config import DataConfig
from segmentation.data import load_split


def test_a_batch_holds_the_chosen_images_in_the_layout_for_convolutions(config: DataConfig) -> None:
    split = load_split(config, "val")
    images, masks = split.gather(np.array([2, 0]))
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), split.images[2])
    np.testing.assert_array_equal(masks.numpy(), split.masks[[2, 0]])


def test_unknown_counts_are_computed_from_the_masks(config: DataConfig) -> None:
    split = load_split(config, "train")
    values, counts = np.unique(split.masks, return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    for each in (split, replace(split, counts=None)):
        assert {value: count for value, count in enumerate(each.pixels_by_value()) if count} == expected
