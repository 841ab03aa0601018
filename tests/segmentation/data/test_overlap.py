"""Validation images that are also training images."""

import shutil
from pathlib import Path

import pytest

from segmentation.config import DataConfig
from segmentation.data import load_split, overlap_warning
from segmentation.data.overlap import equal_images
from tests.conftest import write_own_data


def splits(root: Path) -> list:
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
    for part in ("2 of 4 images of folder/val", "folder/train", "0 (in train: 4)", "copy (in train: 2)"):
        assert part in warning


@pytest.mark.slow
def test_a_run_with_equal_images_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from studies.config import TrainConfig
    from studies.runs.training import run_training
    from tests.conftest import last_run

    root = write_own_data(tmp_path, train=4, val=2)
    shutil.copy(root / "train/images/1.jpg", root / "val/images/1.jpg")
    run_training(TrainConfig(
        dataset="folder", data_dir=str(root), resize=32, crop=32, model="lraspp_mobilenet_v3_large", epochs=1,
        batch_size=2, device="cpu", plot_every=0, log_model=False,
    ))  # fmt: skip
    warning = last_run().data.tags["warning.data"]
    assert warning.startswith("1 of 2 images of folder/val are also in folder/train")
    assert f"WARNING: {warning}" in capsys.readouterr().out
