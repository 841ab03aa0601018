"""Small images for the gallery."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.inspection import overlays
from segmentation.inspection.split import inspect_splits


def opened(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB"), int)


def test_a_class_keeps_its_colours_and_all_else_is_pale(own_data: Path) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data), resize=32, crop=32)
    source = open_split(config, "train")
    original = source.read(0)
    shown = opened(overlays.with_class(source, 0, 1))
    mask, image = original.mask, np.asarray(original.image, int)
    assert shown.shape == image.shape
    inner = np.zeros(mask.shape, bool)
    inner[2:-2, 2:-2] = np.all(
        [mask[2 + dy : 38 + dy, 2 + dx : 46 + dx] == 1 for dy in (-2, 0, 2) for dx in (-2, 0, 2)], 0
    )
    assert inner.any()
    assert abs(shown[inner] - image[inner]).mean() < 30
    outside = mask == 0
    assert np.ptp(shown[outside], axis=1).mean() < 40 < np.ptp(image[outside], axis=1).mean()
    assert shown[outside].mean() > 170


def test_an_image_stands_beside_its_mask_and_alone_if_the_mask_cannot_be_read(own_data: Path) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data))
    source = open_split(config, "train")
    pair = overlays.with_mask(source, 0, source.labels)
    assert pair is not None
    assert opened(pair).shape == (40, 2 * 48 + 4, 3)
    (own_data / "train/masks/0.png").write_text("no image")
    alone = overlays.with_mask(source, 0, source.labels)
    assert alone is not None
    assert opened(alone).shape == (40, 48, 3)
    (own_data / "train/images/0.jpg").write_text("no image")
    assert overlays.with_mask(source, 0, source.labels) is None


def test_typical_images_go_from_much_of_a_class_to_little(own_data: Path) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data))
    split = inspect_splits(config)[0]
    chosen = overlays.typical(split, 2, 3)
    fractions = []
    for index in range(6):
        with Image.open(own_data / f"train/masks/{index}.png") as mask:
            fractions.append((np.asarray(mask) == 2).mean())
    order = np.argsort(fractions)[::-1]
    assert [fractions[index] for index in chosen] == [fractions[order[0]], fractions[chosen[1]], fractions[order[-1]]]
    assert overlays.typical(split, 0, 0) == []
