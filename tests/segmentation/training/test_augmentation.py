import pytest
import torch

from segmentation.config import AugmentationConfig
from segmentation.training.augmentation import Augmentation


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose channels equal their mask, to compare how both change."""
    masks = torch.randint(0, 200, (16, 24, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return torch.stack([masks, masks, masks], 1), masks


def test_nothing_changes_by_default() -> None:
    images, masks = batch()
    for ours, given in zip(Augmentation(AugmentationConfig())(images, masks, torch.Generator()), batch(), strict=True):
        assert torch.equal(ours, given)


def test_flips_mirror_image_and_mask_together_in_some_images() -> None:
    images, masks = batch()
    flipped, flipped_masks = Augmentation(AugmentationConfig(flip=0.5))(images, masks, torch.Generator().manual_seed(3))
    assert torch.equal(flipped[:, 0], flipped_masks)
    same = [torch.equal(one, other) for one, other in zip(masks, flipped_masks, strict=True)]
    mirrored = [torch.equal(one.flip(-1), other) for one, other in zip(masks, flipped_masks, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


@pytest.mark.parametrize("scale", [0.5, 1.7])
def test_zooms_keep_the_size_and_the_alignment(scale: float) -> None:
    mask = torch.zeros(1, 24, 20, dtype=torch.uint8)
    mask[:, :, 10:] = 200
    image = mask[:, None].expand(1, 3, 24, 20)
    augmentation = Augmentation(AugmentationConfig(scale_min=scale, scale_max=scale))
    zoomed, zoomed_mask = augmentation(image, mask, torch.Generator().manual_seed(1))
    assert zoomed.shape == image.shape
    assert zoomed_mask.shape == mask.shape
    inside = zoomed_mask != 255
    assert (inside.float().mean().item() < 0.3) == (scale < 1)
    agree = (zoomed[:, 0].int() - zoomed_mask.int()).abs()[inside] < 60  # except at the blurred edge
    assert agree.float().mean() > 0.85


def test_color_jitter_changes_images_only_and_depends_on_the_seed() -> None:
    images, masks = batch()
    augmentation = Augmentation(AugmentationConfig(color_jitter=0.5, flip=0.5, scale_min=0.8, scale_max=1.2))
    first = augmentation(images, masks, torch.Generator().manual_seed(1))
    again = augmentation(images, masks, torch.Generator().manual_seed(1))
    other = augmentation(images, masks, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    only_color, same_masks = Augmentation(AugmentationConfig(color_jitter=0.5))(images, masks, torch.Generator())
    assert torch.equal(same_masks, masks)
    assert not torch.equal(only_color, images)
    assert only_color.dtype == torch.uint8
