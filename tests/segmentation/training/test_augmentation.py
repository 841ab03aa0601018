from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as torchvision_v1

from segmentation.config import AugmentationConfig, DataConfig
from segmentation.data.preparation import fraction_in_crop, prepare, resize_image
from segmentation.errors import InputError
from segmentation.prediction.predictor import Predictor
from segmentation.scoring.evaluate import at_size_of
from segmentation.training.augmentation import Augmentation


def picture(width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)), random.integers(
        0, 5, (height, width), np.uint8
    )


@pytest.mark.parametrize("size", [(200, 150), (150, 201), (64, 64), (500, 64)])
def test_preparation_is_the_report_s_resize_and_centre_crop(size: tuple[int, int]) -> None:
    image, mask = picture(*size)
    ours, our_mask = prepare(image, mask, DataConfig(resize=64, crop=64), "x")
    expected = torchvision_v1.Compose([torchvision_v1.Resize(64), torchvision_v1.CenterCrop(64)])(image)
    nearest = torchvision_v1.InterpolationMode.NEAREST
    expected_mask = torchvision_v1.Compose([torchvision_v1.Resize(64, nearest), torchvision_v1.CenterCrop(64)])(
        Image.fromarray(mask)
    )
    np.testing.assert_array_equal(ours, np.asarray(expected))
    np.testing.assert_array_equal(our_mask, np.asarray(expected_mask))


def test_each_part_can_be_left_out() -> None:
    image, mask = picture(50, 40)
    assert prepare(image, mask, DataConfig(resize=None, crop=None), "x")[0].shape == (40, 50, 3)
    assert prepare(image, mask, DataConfig(resize=20, crop=None), "x")[1].shape == (20, 25)
    cut, _ = prepare(image, mask, DataConfig(resize=None, crop=30), "x")
    np.testing.assert_array_equal(cut, np.asarray(image)[5:35, 10:40])


@pytest.mark.parametrize("size", [(50, 40), (41, 67), (200, 151), (64, 64), (500, 65)])
@pytest.mark.parametrize(("resize", "crop"), [(33, 33), (32, 20), (None, 30), (40, None), (None, None)])
def test_the_fraction_in_the_crop_is_that_of_the_resized_image(
    size: tuple[int, int], resize: int | None, crop: int | None
) -> None:
    whole, _ = prepare(*picture(*size), DataConfig(resize=resize, crop=None), "x")
    cut, _ = prepare(*picture(*size), DataConfig(resize=resize, crop=crop), "x")
    assert fraction_in_crop(*size, DataConfig(resize=resize, crop=crop)) == cut.size / whole.size


def test_a_picture_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(InputError, match="small has 50 x 40 pixels, less than crop=64"):
        prepare(*picture(50, 40), DataConfig(resize=None, crop=64), "small")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose red channel is their mask, so that both can be seen to change alike."""
    masks = torch.randint(0, 200, (16, 24, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return torch.stack([masks, masks, masks], 1), masks


def test_nothing_changes_by_default() -> None:
    images, masks = batch()
    for ours, given in zip(Augmentation(AugmentationConfig())(images, masks, torch.Generator()), batch(), strict=True):
        assert torch.equal(ours, given)


def test_flips_mirror_image_and_mask_together_for_some_pictures() -> None:
    images, masks = batch()
    flipped, flipped_masks = Augmentation(AugmentationConfig(flip=0.5))(images, masks, torch.Generator().manual_seed(3))
    assert torch.equal(flipped[:, 0], flipped_masks)
    same = [torch.equal(one, other) for one, other in zip(masks, flipped_masks, strict=True)]
    mirrored = [torch.equal(one.flip(-1), other) for one, other in zip(masks, flipped_masks, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


@pytest.mark.parametrize("scale", [0.5, 1.7])
def test_zooms_keep_size_and_keep_image_and_mask_together(scale: float) -> None:
    mask = torch.zeros(1, 24, 20, dtype=torch.uint8)
    mask[:, :, 10:] = 200
    image = mask[:, None].expand(1, 3, 24, 20)
    augment = Augmentation(AugmentationConfig(scale_min=scale, scale_max=scale))
    zoomed, zoomed_mask = augment(image, mask, torch.Generator().manual_seed(1))
    assert zoomed.shape == image.shape
    assert zoomed_mask.shape == mask.shape
    inside = zoomed_mask != 255
    assert (inside.float().mean().item() < 0.3) == (scale < 1)
    agree = (zoomed[:, 0].int() - zoomed_mask.int()).abs()[inside] < 60  # but for the blurred edge
    assert agree.float().mean() > 0.85


SIDE = 101
EDGES = range(40, 61)
ZOOMS = [0.53, 0.61, 0.87, 0.93, 1.07, 1.13, 1.37, 1.93]
"""At none of them a position lies exactly between two pixels, where nearest has to choose a side."""


def step(edge: int, vertical: bool) -> np.ndarray:
    """A mask `(SIDE, SIDE)` that is 0 before a straight edge and 1 after it."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, edge:] = 1
    return mask.T.copy() if vertical else mask


def edge_offset(value: np.ndarray, mask: np.ndarray) -> float:
    """Pixels by which a mask's straight edge lies behind that of an image with values 0 to 1, both square; the mask's
    border may be void."""
    inside = mask != 255
    return float((value[inside] * 1.0 - mask[inside]).sum() / np.sqrt(inside.sum()))


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("zoom", ZOOMS)
def test_a_zoom_moves_the_edges_of_image_and_mask_by_the_same(zoom: float, vertical: bool) -> None:
    augment = Augmentation(AugmentationConfig(scale_min=zoom, scale_max=zoom))
    offsets = []
    for edge in EDGES:
        mask = torch.from_numpy(step(edge, vertical))[None]
        image = (200 * mask)[:, None].expand(1, 3, SIDE, SIDE)
        zoomed, zoomed_mask = augment.apply(image, mask, torch.full((1, 7), 0.5))
        offsets.append(edge_offset(zoomed[0, 0].numpy() / 200, zoomed_mask[0].numpy()))
    assert abs(np.mean(offsets)) < 0.03
    assert np.abs(offsets).max() < 0.53


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_preparation_leaves_the_edges_of_image_and_mask_together(zoom: float, interpolation: Any) -> None:
    config = DataConfig(resize=round(zoom * SIDE), crop=round(zoom * SIDE) - 3, interpolation=interpolation)
    offsets = []
    for edge in EDGES:
        mask = step(edge, vertical=edge % 2 == 0)
        image, small = prepare(Image.fromarray(np.stack([60 + 100 * mask] * 3, -1)), mask, config, "x")
        offsets.append(edge_offset(image[..., 0] / 100 - 0.6, small))
    assert abs(np.mean(offsets)) < 0.03
    assert np.abs(offsets).max() < 0.53


@pytest.mark.parametrize("zoom", ZOOMS)
def test_logits_resized_to_the_picture_s_own_size_put_edges_where_the_mask_has_them(zoom: float) -> None:
    """A model that sees edges perfectly, scored and predicted at original size."""

    def model(images: torch.Tensor) -> torch.Tensor:
        bright = images[:, :1].float() - 100
        return torch.cat([-bright, bright], 1)

    resize = round(zoom * SIDE)
    scored, predicted = [], []
    for edge in EDGES:
        mask = step(edge, vertical=edge % 2 == 0)
        picture = Image.fromarray(np.stack([200 * mask] * 3, -1))
        small = torch.from_numpy(np.array(resize_image(picture, DataConfig(resize=resize, crop=None))))
        logits = at_size_of(torch.from_numpy(mask)[None], model(small.permute(2, 0, 1)[None]))
        scored.append(edge_offset(logits[0].argmax(0).numpy(), mask))
        for flip in (False, True):
            (found,) = Predictor(model, resize, "bilinear", flip=flip)([picture])
            predicted.append(edge_offset(found.classes, mask))
    assert abs(np.mean(scored)) < 0.06
    assert abs(np.mean(predicted)) < 0.06
    assert np.abs(scored + predicted).max() <= 1


def test_colour_jitter_changes_images_only_and_follows_its_seed() -> None:
    images, masks = batch()
    augment = Augmentation(AugmentationConfig(color_jitter=0.5, flip=0.5, scale_min=0.8, scale_max=1.2))
    first = augment(images, masks, torch.Generator().manual_seed(1))
    again = augment(images, masks, torch.Generator().manual_seed(1))
    other = augment(images, masks, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    only_colour, same_masks = Augmentation(AugmentationConfig(color_jitter=0.5))(images, masks, torch.Generator())
    assert torch.equal(same_masks, masks)
    assert not torch.equal(only_colour, images)
    assert only_colour.dtype == torch.uint8
