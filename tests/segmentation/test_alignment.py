"""Edges of images, masks and logits stay aligned when they are resized."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.config import AugmentationConfig, DataConfig
from segmentation.data.preparation import prepare, resize_image
from segmentation.prediction.predictor import Predictor
from segmentation.scoring.evaluate import at_size_of
from segmentation.training.augmentation import Augmentation, zoomed_at_once

SIDE = 101
EDGES = range(40, 61)
ZOOMS = [0.53, 0.61, 0.87, 0.93, 1.07, 1.13, 1.37, 1.93]
"""For none of them, a position lies exactly between two pixels, where the nearest pixel is not unique."""


def edge_mask(edge: int, vertical: bool) -> np.ndarray:
    """A mask `(SIDE, SIDE)` that is 0 before a straight edge and 1 after it."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, edge:] = 1
    return mask.T.copy() if vertical else mask


def edge_offset(value: np.ndarray, mask: np.ndarray) -> float:
    """Pixels from the straight edge in a square image with values 0 to 1 to that of its mask; void is left out."""
    inside = mask != 255
    return float((value[inside] * 1.0 - mask[inside]).sum() / np.sqrt(inside.sum()))


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("zoom", ZOOMS)
def test_a_zoom_keeps_the_edges_of_image_and_mask_aligned(zoom: float, vertical: bool) -> None:
    augmentation = Augmentation(AugmentationConfig(scale_min=zoom, scale_max=zoom))
    offsets = []
    for edge in EDGES:
        mask = torch.from_numpy(edge_mask(edge, vertical))[None]
        image = (200 * mask)[:, None].expand(1, 3, SIDE, SIDE)
        zoomed, zoomed_mask = augmentation.apply(image, mask, torch.full((1, 13), 0.5))
        offsets.append(edge_offset(zoomed[0, 0].numpy() / 200, zoomed_mask[0].numpy()))
    assert abs(np.mean(offsets)) < 0.03
    assert np.abs(offsets).max() < 0.53


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("zoom", ZOOMS)
def test_a_zoom_of_the_whole_batch_keeps_edges_aligned(zoom: float, vertical: bool) -> None:
    """The computation on devices other than CPUs."""
    size = round(SIDE * zoom)
    masks = torch.from_numpy(np.stack([edge_mask(edge, vertical) for edge in EDGES]))
    images = (200 * masks)[:, None].expand(-1, 3, -1, -1)
    offset = (SIDE - size) // 2
    zoomed, zoomed_masks = zoomed_at_once(images, masks, [[size] * 2] * len(EDGES), [[offset] * 2] * len(EDGES))
    offsets = [edge_offset(*each) for each in zip(zoomed[:, 0].numpy() / 200, zoomed_masks.numpy(), strict=True)]
    assert abs(np.mean(offsets)) < 0.03
    assert np.abs(offsets).max() < 0.53


def half_plane(angle: float, offset: float, side: int = SIDE) -> np.ndarray:
    """Fraction of each pixel that lies beyond a straight edge, whose normal has this angle in degrees."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    normal = np.deg2rad(angle)
    return np.clip(columns * np.cos(normal) + rows * np.sin(normal) - offset + 0.5, 0, 1)


@pytest.mark.parametrize("values", [{"rotation": 45.0}, {"flip": 1.0}, {"vertical_flip": 1.0}], ids=str)
@pytest.mark.parametrize("angle", [11.0, 27.0, 61.0, 80.0])
def test_flips_and_rotations_keep_edges_aligned(values: dict[str, Any], angle: float) -> None:
    """Straight edges in many directions and positions; the mask is the image above a threshold."""
    edges = np.stack([half_plane(angle, offset) for offset in np.linspace(-9, 9, 40)])
    images = torch.from_numpy((200 * edges).round().astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    masks = torch.from_numpy((edges > 0.5).astype(np.uint8))
    augmentation = Augmentation(AugmentationConfig(**values))
    changed, changed_masks = augmentation(images, masks, torch.Generator().manual_seed(1))
    assert not torch.equal(changed[:, 0], images[:, 0])
    offsets = []
    for value, mask in zip(changed[:, 0].numpy() / 200, changed_masks.numpy(), strict=True):
        inside = mask != 255
        boundary = np.count_nonzero(inside & (value > 0.02) & (value < 0.98))  # in pixels, about the edge's length
        offsets.append((value[inside] - mask[inside]).sum() / max(boundary, SIDE))
    assert abs(np.mean(offsets)) < 0.06
    assert np.abs(offsets).max() < 0.53


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_preparation_keeps_the_edges_of_image_and_mask_aligned(zoom: float, interpolation: Any) -> None:
    config = DataConfig(resize=round(zoom * SIDE), crop=round(zoom * SIDE) - 3, interpolation=interpolation)
    offsets = []
    for edge in EDGES:
        mask = edge_mask(edge, vertical=edge % 2 == 0)
        image, small = prepare(Image.fromarray(np.stack([60 + 100 * mask] * 3, -1)), mask, config, "x")
        offsets.append(edge_offset(image[..., 0] / 100 - 0.6, small))
    assert abs(np.mean(offsets)) < 0.03
    assert np.abs(offsets).max() < 0.53


@pytest.mark.parametrize("zoom", ZOOMS)
def test_logits_resized_to_the_original_size_have_edges_where_the_mask_has_them(zoom: float) -> None:
    """A model that finds edges perfectly, scored and predicted at original size."""

    def model(images: torch.Tensor) -> torch.Tensor:
        bright = images[:, :1].float() - 100
        return torch.cat([-bright, bright], 1)

    resize = round(zoom * SIDE)
    scored, predicted = [], []
    for edge in EDGES:
        mask = edge_mask(edge, vertical=edge % 2 == 0)
        image = Image.fromarray(np.stack([200 * mask] * 3, -1))
        small = torch.from_numpy(np.array(resize_image(image, DataConfig(resize=resize, crop=None))))
        logits = at_size_of(torch.from_numpy(mask)[None], model(small.permute(2, 0, 1)[None]))
        scored.append(edge_offset(logits[0].argmax(0).numpy(), mask))
        for flip in (False, True):
            (found,) = Predictor(model, resize, "bilinear", flip=flip)([image])
            predicted.append(edge_offset(found.classes, mask))
    assert abs(np.mean(scored)) < 0.06
    assert abs(np.mean(predicted)) < 0.06
    assert np.abs(scored + predicted).max() <= 1
