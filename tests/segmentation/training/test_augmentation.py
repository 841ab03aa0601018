from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segmentation.config import AugmentationConfig
from segmentation.errors import InputError
from segmentation.training import augmentation as module
from segmentation.training.augmentation import COLUMNS, Augmentation

ALL: dict[str, Any] = {
    "flip": 0.5, "vertical_flip": 0.5, "scale_min": 0.5, "scale_max": 2.0, "rotation": 30.0, "color_jitter": 0.4,
    "grayscale": 0.5, "autocontrast": 0.5, "blur": 0.5,
}  # fmt: skip


def colorful(images: int = 12, height: int = 40, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images with three different channels, and masks of blocks."""
    random = torch.Generator().manual_seed(5)
    coarse = torch.randint(0, 256, (images, 3, height // 8, width // 8), generator=random).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    blocks = torch.randint(0, 9, (images, height // 8, width // 8), generator=random)
    return smooth.to(torch.uint8), blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)


def applied(values: dict[str, Any], **draws: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment the colorful images, each by the same random numbers for the named operations and 0.99 for the others."""
    images, masks = colorful()
    rows = torch.full((len(images), 13), 0.99)
    for name, row in draws.items():
        rows[:, COLUMNS[name]] = torch.tensor(row)
    return Augmentation(AugmentationConfig(**values)).apply(images, masks, rows)


def assert_nearly_equal(ours: torch.Tensor, theirs: torch.Tensor, most: int = 1, share: float = 0.01) -> None:
    """Values differ by at most `most`, and at most this share of them differs."""
    differences = (ours.int() - theirs.int()).abs()
    assert differences.max() <= most
    assert (differences > 0).float().mean() <= share


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


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.8])
def test_rotations_are_those_of_torchvision_with_a_border_of_gray_and_void(draw: float) -> None:
    images, masks = colorful()
    rotated, rotated_masks = applied({"rotation": 50.0}, rotation=[draw])
    angle = 50 * (2 * draw - 1)
    expected = F.rotate(images, angle, InterpolationMode.BILINEAR, fill=[127.0])
    outside = F.rotate(torch.zeros_like(masks), angle, InterpolationMode.NEAREST, fill=[255.0]) == 255
    assert outside.any()
    inner = ~F.gaussian_blur(outside.float()[:, None], [5, 5])[:, 0].bool()  # torchvision blends the border with gray
    assert_nearly_equal(rotated.movedim(1, -1)[inner], expected.movedim(1, -1)[inner], share=0.02)
    same = F.rotate(masks, angle, InterpolationMode.NEAREST, fill=[255.0]) == rotated_masks
    assert same.float().mean() > 0.995  # except where a position lies between two pixels
    assert (rotated_masks[outside] == 255).float().mean() > 0.98
    assert (rotated.movedim(1, -1)[rotated_masks == 255] == 127).all()


def test_color_operations_are_those_of_torchvision() -> None:
    images, masks = colorful()
    jittered, same = applied({"color_jitter": 0.4}, color_jitter=[0.9, 0.2, 0.7])
    expected = F.adjust_contrast(F.adjust_brightness(images, 1 + 0.4 * 0.8), 1 - 0.4 * 0.6)
    assert_nearly_equal(jittered, F.adjust_saturation(expected, 1 + 0.4 * 0.4), most=2, share=0.05)
    assert torch.equal(same, masks)
    assert_nearly_equal(applied({"grayscale": 0.5}, grayscale=[0.2])[0], F.rgb_to_grayscale(images, 3))
    assert_nearly_equal(applied({"autocontrast": 0.5}, autocontrast=[0.2])[0], F.autocontrast(images), share=1.0)
    blurred, same = applied({"blur": 0.5}, blur=[0.2, 0.6])
    assert_nearly_equal(blurred, F.gaussian_blur(images, [13, 13], 0.1 + 0.6 * 1.9), share=0.02)
    assert torch.equal(same, masks)
    for name in ("grayscale", "autocontrast", "blur"):
        assert torch.equal(applied({name: 0.5})[0], images)  # 0.99 is not below the probability


def test_a_vertical_flip_mirrors_rows() -> None:
    images, masks = colorful()
    flipped, flipped_masks = applied({"vertical_flip": 0.5}, vertical_flip=[0.2])
    assert torch.equal(flipped, images.flip(2))
    assert torch.equal(flipped_masks, masks.flip(1))


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.9), (1.1, 2.5), (0.5, 2.0)])
def test_a_zoom_of_the_whole_batch_equals_that_of_each_image(
    low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices other than CPUs zoom by matrix products."""
    images, masks = colorful()
    calls = []
    zoom = module._zoomed_image
    monkeypatch.setattr(module, "_zoomed_image", lambda *values: calls.append(values[2:]) or zoom(*values))
    augmentation = Augmentation(AugmentationConfig(scale_min=low, scale_max=high))
    zoomed, zoomed_masks = augmentation(images, masks, torch.Generator().manual_seed(2))
    sizes, offsets = (list(each) for each in zip(*calls, strict=True))
    together, masks_together = module.zoomed_at_once(images, masks, sizes, offsets)
    assert_nearly_equal(together, zoomed, share=0.25)  # torchvision rounds after each axis
    assert ((zoomed_masks == 255) == (masks_together == 255)).all()
    assert (zoomed_masks == masks_together).float().mean() > 0.99  # except where a position lies between two pixels


def test_no_operation_waits_for_the_device() -> None:
    """Tensors on the device `meta` have no values: whatever reads one raises."""
    images, masks = (each.to("meta") for each in colorful())
    augmented, augmented_masks = Augmentation(AugmentationConfig(**ALL))(images, masks, torch.Generator())
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    assert (augmented_masks.shape, augmented_masks.dtype) == (masks.shape, torch.uint8)


def test_images_of_16_bits_and_many_channels_are_augmented_like_those_of_8() -> None:
    images, masks = colorful()
    values = {name: value for name, value in ALL.items() if name not in ("color_jitter", "grayscale")}
    wide = images.to(torch.int32).mul(257).to(torch.uint16)
    for more in ({}, {"color_jitter": 0.3, "grayscale": 0.5}):
        augmentation = Augmentation(AugmentationConfig(**values | more))
        draws = augmentation.draw(len(images), torch.Generator().manual_seed(4))
        expected, expected_masks = augmentation.apply(images, masks, draws)
        found, found_masks = augmentation.apply(wide, masks, draws)
        assert found.dtype == torch.uint16
        assert torch.equal(found_masks, expected_masks)
        assert (found.float() / 257 - expected.float()).abs().mean() < 2  # rounded less
    five = torch.cat([images, images[:, :2]], 1)
    augmentation = Augmentation(AugmentationConfig(**values))
    draws = augmentation.draw(len(images), torch.Generator().manual_seed(4))
    expected, _ = augmentation.apply(images, masks, draws)
    found, _ = augmentation.apply(five, masks, draws)
    assert torch.equal(found, torch.cat([expected, expected[:, :2]], 1))
    for name in ("color_jitter", "grayscale"):
        with pytest.raises(InputError, match=f"{name}=0.5 needs images of three channels"):
            Augmentation(AugmentationConfig(**{name: 0.5}))(five, masks, torch.Generator())


def test_new_operations_leave_the_random_numbers_of_the_others_as_they_are() -> None:
    first = {"flip": 0.5, "scale_min": 0.5, "color_jitter": 0.3}
    old = Augmentation(AugmentationConfig(**first)).draw(4, torch.Generator().manual_seed(1))
    new = Augmentation(AugmentationConfig(**first, rotation=10, blur=0.1)).draw(4, torch.Generator().manual_seed(1))
    assert torch.equal(old[:, :7], new[:, :7])
    random = torch.Generator().manual_seed(1)
    assert torch.equal(old[:, 0], torch.rand(4, generator=random))
    assert torch.equal(old[:, 1:4], torch.rand(4, 3, generator=random))
    assert torch.equal(old[:, 4:7], torch.rand(4, 3, generator=random))
