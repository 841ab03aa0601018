"""Recommendations: each names a field of training, can be typed, and is gone once it is followed."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig, TrainingConfig
from segmentation.fields import read_value
from segmentation.inspection import advice as advice_module
from segmentation.inspection.advice import Advice, advise, channel_statistics
from segmentation.inspection.split import inspect_splits
from tests.conftest import write_own_data


def write(root: Path, images: int, size: tuple[int, int], object_side: int, background: int = 120) -> None:
    """Write images of class 0 with a square of class 1 in the middle, in both splits."""
    width, height = size
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            random = np.random.default_rng(number)
            pixels = np.clip(random.normal(background, 60, (height, width, 3)), 0, 255).astype(np.uint8)
            mask = np.zeros((height, width), np.uint8)
            top, left = (height - object_side) // 2, (width - object_side) // 2
            mask[top : top + object_side, left : left + object_side] = 1
            Image.fromarray(pixels).save(root / f"{split}/images/{number}.png")
            Image.fromarray(mask).save(root / f"{split}/masks/{number}.png")
    (root / "classes.txt").write_text("ground\nthing\n")


def advised(root: Path, **values: object) -> dict[str, Advice]:
    config = DataConfig(dataset="folder", data_dir=str(root), **values)  # type: ignore[arg-type]
    return {each.field: each for each in advise(inspect_splits(config), config)}


def test_a_class_that_is_too_small_asks_for_the_smallest_sufficient_resize(tmp_path: Path) -> None:
    """10 x 10 of 200 x 200 pixels are 16 at resize=80 and 64 at 160. SIDES has 96, 128, 160."""
    write(tmp_path, 10, (200, 200), 10)
    found = advised(tmp_path, resize=80, crop=80)
    assert found["resize"].value == 160
    assert found["crop"].value is None
    assert "4 times as long" in found["resize"].reason
    assert not {"resize", "crop"} & advised(tmp_path, resize=160, crop=None).keys()


def test_images_of_one_shape_need_no_crop(tmp_path: Path) -> None:
    write(tmp_path, 3, (60, 40), 20)
    found = advised(tmp_path, resize=40, crop=40)
    assert found["crop"].value is None
    assert "33%" in found["crop"].reason
    assert "crop" not in advised(tmp_path, resize=40, crop=None)


@pytest.mark.parametrize(
    ("resize", "crop", "value"),
    [(32, None, 32), (32, 20, 32), (None, 100, 40), (None, None, 40), (32, 50, 32), (32, 32, "nothing")],
)
def test_images_of_several_shapes_get_the_largest_square(
    tmp_path: Path, resize: int | None, crop: int | None, value: object
) -> None:
    write_own_data(tmp_path, train=3, val=2)
    root = tmp_path / "own"
    for file in (root / "train/images/0.jpg", root / "train/masks/0.png"):
        Image.open(file).resize((60, 40), Image.Resampling.NEAREST).save(file)
    found = advised(root, resize=resize, crop=crop)
    assert ("crop" in found) == (value != "nothing")
    assert value == "nothing" or found["crop"].value == value


def test_the_normalization_with_mean_and_deviation_nearest_to_0_and_1(own_data: Path) -> None:
    config = DataConfig(dataset="folder", data_dir=str(own_data), resize=32, crop=32)
    splits = inspect_splits(config)
    statistics = channel_statistics(splits)
    assert statistics is not None
    mean, std = statistics
    pixels = []
    for file in sorted(own_data.glob("*/images/*.jpg")):
        with Image.open(file) as image:
            pixels.append(np.asarray(image.resize((64, 64), Image.Resampling.BOX), float).reshape(-1, 3) / 255)
    assert mean == pytest.approx(np.concatenate(pixels).mean(axis=0), abs=1e-5)
    assert std == pytest.approx(np.concatenate(pixels).std(axis=0), abs=1e-4)
    assert advised(own_data, resize=32, crop=32)["normalization"].value == "imagenet"


def test_few_images_get_smaller_batches(own_data: Path) -> None:
    """6 images in batches of 2 are three steps."""
    assert advised(own_data, resize=32, crop=32)["batch_size"].value == 2


def test_steps_are_counted_without_the_images_that_will_be_held_out(tmp_path: Path) -> None:
    """Of 100 images, 20 are held out; the other 80 are 2 batches of 64, or 5 of 16."""
    write(tmp_path, 100, (40, 40), 10)
    shutil.rmtree(tmp_path / "val")
    found = advised(tmp_path, resize=32, crop=32)
    assert found["val_fraction"].reason.startswith("there is no split val; this takes 20 of the 100")
    assert found["batch_size"].value == 16
    assert found["batch_size"].reason == (
        "80 training images give 2 optimizer steps per epoch at batch_size=64, and 5 at 16"
    )


@pytest.mark.parametrize(("images", "fraction"), [(10, 0.5), (45, 0.45), (90, 0.25), (100, 0.2), (300, 0.2)])
def test_at_least_20_images_are_held_out_unless_that_is_more_than_half(
    images: int, fraction: float, tmp_path: Path
) -> None:
    write(tmp_path, images, (24, 24), 10)
    shutil.rmtree(tmp_path / "val")
    assert advised(tmp_path, resize=24, crop=24)["val_fraction"].value == fraction


def test_only_fields_of_training_are_recommended_and_each_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 12, (200, 200), 10)
    found = advised(tmp_path, resize=80, crop=30)
    assert {"resize", "crop", "normalization", "batch_size"} <= found.keys()
    known = {field.name for field in fields(TrainingConfig)}
    assert found.keys() <= known
    typed = {each.field: read_value(TrainingConfig, each.field, str(each.value)) for each in found.values()}
    assert typed == {each.field: each.value for each in found.values()}
    replace(TrainingConfig(), **typed)
    monkeypatch.setattr(advice_module, "_splits", lambda *_: [Advice("no_such_field", 1, "")])
    assert "no_such_field" not in advised(tmp_path)


def test_a_class_that_the_center_crop_loses_asks_for_other_crops_until_they_are_set(tmp_path: Path) -> None:
    """Images of two shapes, with things at the left side only."""
    for split in ("train", "val"):
        for number in range(10):
            mask = np.zeros((40, 60 + 10 * (number % 2)), np.uint8)
            mask[10:30, :10] = 1
            for part, pixels in (("masks", mask), ("images", np.stack([mask * 99 + number] * 3, -1))):
                (tmp_path / split / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / split / part / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\nthing\n")
    size = {"resize": 40, "crop": 40}
    found = advised(tmp_path, **size)
    assert (found["crop_at"].value, found["score_crop"].value) == ("class", "whole")
    assert "area of thing" in found["crop_at"].reason
    assert "ground" not in found["crop_at"].reason
    followed = advised(tmp_path, **size, crop_at="class")
    assert "crop_at" not in followed
    assert "score_crop" in followed
    fields_of_crops = {"crop", "crop_at", "score_crop"}
    assert not fields_of_crops & advised(tmp_path, **size, crop_at="class", score_crop="whole").keys()
    assert not fields_of_crops & advised(tmp_path, resize=40, crop=20, crop_at="random", score_crop="whole").keys()
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), resize=40, crop=40, crop_at="random")
    train, val = inspect_splits(config)
    assert train.fraction_kept() == 1
    assert val.fraction_kept() == pytest.approx(2 * 40 / 130)
