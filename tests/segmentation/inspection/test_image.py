"""What is read of one image, against numpy on the raw files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.data.preparation import prepare
from segmentation.inspection.image import InspectedImage, inspect_image
from segmentation.inspection.split import inspect_splits
from tests.conftest import write_own_data


def inspected(config: DataConfig, split: str = "train") -> list[InspectedImage]:
    source = open_split(config, split)
    return [inspect_image(source, index, config) for index in range(len(source.names))]


def counts(mask: np.ndarray) -> dict[int, int]:
    return dict(zip(*(part.tolist() for part in np.unique(mask, return_counts=True)), strict=True))


@pytest.mark.parametrize(("resize", "crop"), [(24, 24), (24, None), (None, 32), (None, None), (60, 60)])
def test_pixels_are_those_of_numpy_on_the_mask_and_on_the_prepared_mask(
    voc: Path, resize: int | None, crop: int | None
) -> None:
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=resize, crop=crop)
    source = open_split(config, "train")
    for index, image in enumerate(inspected(config)):
        with Image.open(voc / f"VOCdevkit/VOC2007/SegmentationClass/{image.name}.png") as file:
            raw = np.array(file)
        original = source.read(index)
        _, prepared = prepare(original.image, original.mask, config, image.name)
        assert dict(zip(image.values.tolist(), image.pixels[0].tolist(), strict=True)) == counts(raw)
        expected = counts(prepared)
        after = zip(image.values.tolist(), image.pixels[2].tolist(), strict=True)
        assert {value: count for value, count in after if count} == expected
        assert image.prepared == prepared.shape[::-1]
        assert image.size == original.image.size
        assert image.total == raw.size
        assert not image.faults


def test_a_file_is_described_as_it_is_stored(voc: Path) -> None:
    folder = voc / "VOCdevkit/VOC2007"
    first = inspected(DataConfig(dataset="voc2007", data_dir=str(voc)))[0]
    assert str(first.image_kind) == "JPEG, RGB, 8 bits"
    assert str(first.mask_kind) == "PNG, P, 8 bits"
    content = (folder / f"JPEGImages/{first.name}.jpg").read_bytes()
    assert first.image_digest == hashlib.blake2b(content, digest_size=16).digest()


def test_colours_are_the_mean_over_the_image(tmp_path: Path) -> None:
    """An image of 64 x 64 pixels is not reduced. PNG keeps its pixels."""
    root = write_own_data(tmp_path, train=1, val=1)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    (root / "train/images/0.jpg").unlink()
    Image.fromarray(pixels).save(root / "train/images/0.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "train/masks/0.png")
    (image,) = inspected(DataConfig(dataset="folder", data_dir=str(root)))
    assert image.colours is not None
    assert image.colours.mean == pytest.approx(tuple(pixels.mean(axis=(0, 1)) / 255), abs=1e-6)
    assert image.colours.square == pytest.approx(tuple(((pixels / 255) ** 2).mean(axis=(0, 1))), abs=1e-6)
    assert image.colours.contrast == pytest.approx((pixels / 255).mean(axis=2).std(), abs=1e-6)
    assert not image.colours.is_grey


def test_a_reduced_jpeg_gives_nearly_the_colours_and_hash_of_the_whole(tmp_path: Path) -> None:
    """The decoder reduces a JPEG of 512 x 512 pixels to 64 x 64."""
    root = write_own_data(tmp_path, train=2, val=1)
    blocks = np.random.default_rng(3).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    image = Image.fromarray(blocks).resize((576, 512), Image.Resampling.NEAREST)
    for name in ("train/images/0.jpg", "train/images/1.jpg"):
        (root / name).unlink()
    image.save(root / "train/images/0.jpg", quality=95)
    image.save(root / "train/images/1.png")
    for number in (0, 1):
        Image.fromarray(np.zeros((512, 576), np.uint8)).save(root / f"train/masks/{number}.png")
    jpeg, png = inspected(DataConfig(dataset="folder", data_dir=str(root)))
    assert jpeg.size == png.size == (576, 512)
    assert jpeg.colours is not None
    assert png.colours is not None
    assert jpeg.colours.mean == pytest.approx(png.colours.mean, abs=0.01)
    assert (jpeg.hash ^ png.hash).bit_count() <= 3


def test_the_generated_data_set_is_inspected_without_files() -> None:
    config = DataConfig(dataset="shapes", resize=32, crop=32)
    source = open_split(config, "val")
    image = inspect_image(source, 3, config)
    mask = source.read(3).mask
    assert dict(zip(image.values.tolist(), image.pixels[0].tolist(), strict=True)) == counts(mask)
    assert image.image_kind is None


def test_sums_over_a_split_are_those_of_its_masks(voc: Path) -> None:
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=24, crop=24)
    train, val = inspect_splits(config)
    assert (train.name, val.name) == ("train", "val")
    masks = []
    for image in train.images:
        with Image.open(voc / f"VOCdevkit/VOC2007/SegmentationClass/{image.name}.png") as file:
            masks.append(np.array(file))
    for value in (0, 1, 2, 3, VOID):
        assert train.pixels[0, value] == sum(np.count_nonzero(mask == value) for mask in masks)
        assert train.holding[0, value] == sum((mask == value).any() for mask in masks)
    whole = sum(mask.size for mask in masks)
    assert train.void() == pytest.approx(train.pixels[0, VOID] / whole)
    inside = [24 * 24 / (24 * int(24 * max(mask.shape) / min(mask.shape))) * mask.size for mask in masks]
    assert train.fraction_kept() == pytest.approx(sum(inside) / whole)
    assert train.sizes()[(41, 33)] == 1


def test_the_held_out_images_and_chosen_splits_can_be_inspected(own_data: Path) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data), resize=32, crop=32, calibration_fraction=0.34)
    held_out, val = inspect_splits(config, ["held_out", "val"])
    assert len(held_out.images) == 2
    assert str(held_out.images[0].image_kind) == "JPEG, RGB, 8 bits"
    assert len(val.images) == 3
