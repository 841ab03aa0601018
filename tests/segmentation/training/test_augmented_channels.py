"""Flips and zooms of images of five channels of 16 bits."""

import pytest
import torch

from segmentation.classes import VOID
from segmentation.config import AugmentationConfig
from segmentation.training.augmentation import Augmentation

BATCH, SIDE = 4, 24


@pytest.mark.parametrize(
    "config", [AugmentationConfig(flip=0.5), AugmentationConfig(scale_min=0.5, scale_max=2.0)], ids=["flip", "zoom"]
)
def test_each_channel_is_augmented_like_an_rgb_image(config: AugmentationConfig) -> None:
    random = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    masks = torch.randint(0, 5, (BATCH, SIDE, SIDE), generator=random, dtype=torch.uint8)
    augmentation = Augmentation(config)
    draws = augmentation.draw(BATCH, random)
    expected, expected_masks = augmentation.apply(rgb, masks, draws)
    five = torch.cat([rgb, rgb[:, :2]], 1).int().to(torch.uint16)
    found, found_masks = augmentation.apply(five, masks, draws)
    assert found.dtype == torch.uint16
    assert torch.equal(found_masks, expected_masks)
    for channel in range(5):
        difference = found[:, channel].int() - expected[:, channel % 3].int()
        difference[found_masks == VOID] = 0  # the border of a zoomed image is grey, at half of the range
        assert difference.abs().max() <= (1 if config.flip == 0 else 0)
