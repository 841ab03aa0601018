"""Validation images that are also training images."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data import Split, load_split, overlap_warning
from segmentation.data.overlap import equal_images
from segmentation.errors import InputError
from segmentation.training.loop import Data
from studies.config import TrainConfig
from studies.runs import training


def splits(root: Path) -> list[Split]:
    config = DataConfig(dataset="folder", data_dir=str(root), resize=16, crop=16)
    return [load_split(config, split) for split in ("train", "val")]


def test_equal_files_are_found_under_other_names_and_with_other_masks(own_data: Path) -> None:
    assert overlap_warning(*splits(own_data)) is None
    for index, name in ((4, "0"), (2, "copy")):
        shutil.copy(own_data / f"train/images/{index}.jpg", own_data / f"val/images/{name}.jpg")
    shutil.copy(own_data / "train/masks/2.png", own_data / "val/masks/copy.png")
    train, val = splits(own_data)
    assert equal_images(train, val) == [("0", "4"), ("copy", "2")]
    warning = str(overlap_warning(train, val))
    for part in ("2 of 4 images of own/val", "own/train", "0 (in train: 4)", "copy (in train: 2)"):
        assert part in warning


def test_the_warning_is_printed_and_a_tag_of_the_run(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tags: dict[str, str] = {}
    monkeypatch.setattr(training.tracking, "log_tags", tags.update)
    config = TrainConfig(dataset="folder", data_dir=str(own_data))
    training._print_warnings(Data(*splits(own_data)), config)
    assert "warning.data" not in tags
    shutil.copy(own_data / "train/images/1.jpg", own_data / "val/images/1.jpg")
    training._print_warnings(Data(*splits(own_data)), config)
    assert tags["warning.data"].startswith("1 of 3 images of own/val are also in own/train")
    assert f"Warning: {tags['warning.data']}" in capsys.readouterr().out


def test_splits_with_other_classes_are_not_trained_on(own_data: Path) -> None:
    train, val = splits(own_data)
    with pytest.raises(InputError, match=r"train and val of .*: blue, sky; describe the same classes"):
        Data(train, replace(val, labels=Classes.named("red", "green", "sky")))
