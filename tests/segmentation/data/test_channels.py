"""Prepared images of other channels than three and of 16 bits, their statistics, and what is refused or advised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import Split, load_split, load_splits, open_split
from segmentation.data import split as split_module
from segmentation.data.cache import split_folder
from segmentation.data.held_out import Subset
from segmentation.errors import InputError
from segmentation.inspection.advice import advise
from segmentation.inspection.overlays import with_mask
from segmentation.inspection.problems import find_problems
from segmentation.inspection.split import inspect_splits
from tests.segmentation.io.test_channels import write_tiff

SIDE = 12


def written(root: Path, channels: int, dtype: type = np.uint16, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Write three TIFF images of each split, with masks of two classes."""
    for split in splits:
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            random = np.random.default_rng([index, split == "val", channels])
            pixels = random.integers(0, np.iinfo(dtype).max, (SIDE, SIDE + index, channels), dtype, endpoint=True)
            write_tiff(root / split / f"images/{index}.tif", pixels)
            Image.fromarray(pixels[..., 0].astype(np.uint8) % 2).save(root / split / f"masks/{index}.png")
    (root / "classes.txt").write_text("a\nb\n")
    return root


def config(root: Path, channels: int, size: int | None = None) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), channels=channels, resize=size, crop=size or SIDE)


@pytest.mark.parametrize(("channels", "dtype"), [(5, np.uint16), (3, np.uint16), (1, np.uint8), (4, np.uint8)])
def test_a_split_holds_the_files_values(tmp_path: Path, channels: int, dtype: type) -> None:
    data = config(written(tmp_path, channels, dtype), channels)
    split, source = load_split(data, "train"), open_split(data, "train")
    assert (split.images.shape, split.images.dtype) == ((3, SIDE, SIDE, channels), dtype)
    assert (split.channels, split.bits) == (channels, 8 * np.dtype(dtype).itemsize)
    image = source.read(0).image
    np.testing.assert_array_equal(split.images[0], image.values)  # type: ignore[union-attr]
    images, _ = split.gather(np.array([0, 2]))
    assert images.shape == (2, channels, SIDE, SIDE)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), split.images[[0, 2]])
    again = load_split(data, "train")
    assert again.fingerprint == split.fingerprint


def test_the_number_of_channels_is_part_of_the_cache_key(tmp_path: Path) -> None:
    data = config(written(tmp_path, 5), 5)
    source = open_split(data, "train")
    assert split_folder(source, data, "train") != split_folder(source, replace(data, channels=4), "train")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mean_and_std_are_those_of_numpy(tmp_path: Path, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "BLOCK", 50)  # several parts of an image
    split = load_split(config(written(tmp_path, 5, dtype), 5), "train")
    mean, std = split.channel_statistics
    pixels = split.images.astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-14)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_a_channel_of_one_value_has_std_1() -> None:
    images = np.full((2, 4, 4, 2), 65535, np.uint16)
    images[0, 0, 0, 1] = 0
    split = made(images)
    mean, std = split.channel_statistics
    assert (mean[0], std[0]) == (65535, 1)
    assert std[1] == pytest.approx(images[..., 1].std(dtype=np.float64))


def made(images: np.ndarray) -> Split:
    """A split of these images in memory."""
    names = tuple(map(str, range(len(images))))
    labels = open_split(DataConfig(dataset="shapes"), "train").labels
    masks = np.zeros(images.shape[:3], np.uint8)
    return Split("folder", "train", "there", labels, names, images, masks, "f", names)


def test_images_of_other_bits_are_listed(tmp_path: Path) -> None:
    root = written(tmp_path, 5)
    for index in (1, 2):
        write_tiff(root / f"train/images/{index}.tif", np.zeros((SIDE, SIDE + index, 5), np.uint8))
    with pytest.raises(InputError) as raised:
        load_split(config(root, 5), "train")
    for index in (1, 2):
        assert f"0 has 16 bits per channel but {index} has 8" in str(raised.value)


def test_splits_of_different_bits_are_refused(tmp_path: Path) -> None:
    root = written(written(tmp_path, 5, splits=("train",)), 5, np.uint8, ("val",))
    with pytest.raises(InputError, match=r"16 bits in train \(such as 0\), 8 bits in val .*same bits"):
        load_splits(config(root, 5))


def test_every_file_of_other_channels_is_named(tmp_path: Path) -> None:
    root = written(tmp_path, 4)
    with pytest.raises(InputError) as raised:
        load_split(config(root, 5), "train")
    for index in range(3):
        assert f"images/{index}.tif has 4 channels of 16 bits; expected 5 channels" in str(raised.value)


def test_a_generated_data_set_has_three_channels() -> None:
    with pytest.raises(InputError, match="channels=5: dataset=shapes has RGB images; set channels=3"):
        open_split(DataConfig(dataset="shapes", channels=5), "train")


def test_memory_of_many_channels_is_planned(tmp_path: Path) -> None:
    source = open_split(config(written(tmp_path, 5), 5), "train")
    assert Subset(source, (0,)).channels == 5
    assert source.pixels(1) == SIDE * (SIDE + 1)


def test_inspection_advises_the_files_channels(tmp_path: Path) -> None:
    root = written(tmp_path, 5)
    data = config(root, 3)
    inspected = inspect_splits(data)
    (advice,) = (each for each in advise(inspected, data) if each.field == "channels")
    assert (advice.value, advice.reason) == (5, "6 of 6 image files have 5 channels of 16 bits")
    assert {problem.level for problem in find_problems(inspected, data)} == {"error"}


def test_inspection_reads_such_images(tmp_path: Path) -> None:
    root = written(tmp_path, 5)
    data = config(root, 5)
    inspected = inspect_splits(data)
    assert [problem for problem in find_problems(inspected, data) if problem.level == "error"] == []
    image = inspected[0].images[0]
    assert str(image.image_kind) == "TIFF, 5 channels, 16 bits"
    assert image.colours is not None
    assert len(image.colours.mean) == 5
    advised = {each.field: each.value for each in advise(inspected, data)}
    assert "channels" not in advised
    assert advised["normalization"] == "measured"
    assert inspected[0].source is not None
    assert inspected[0].labels is not None
    assert with_mask(inspected[0].source, 0, inspected[0].labels)


def test_inspection_finds_images_of_other_bits(tmp_path: Path) -> None:
    root = written(tmp_path, 5)
    write_tiff(root / "val/images/1.tif", np.zeros((SIDE, SIDE + 1, 5), np.uint8))
    data = config(root, 5)
    (found,) = (each for each in find_problems(inspect_splits(data), data) if each.kind == "bits")
    assert (found.level, [(case.split, case.name) for case in found.cases]) == ("error", [("val", "1")])
