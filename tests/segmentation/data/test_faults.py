"""Everything that is wrong with a data set is in one message, up to twenty faults and then a count."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import load_split, load_splits, open_split, open_splits
from segmentation.errors import InputError
from tests.conftest import write_own_data


def config(root: Path) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), resize=16, crop=16)


def message(root: Path, opens: bool = False) -> str:
    with pytest.raises(InputError) as refusal:
        (open_split if opens else load_split)(config(root), "train")
    return str(refusal.value)


def test_faults_of_different_kinds_are_listed_together(own_data: Path) -> None:
    masks = own_data / "train/masks"
    (own_data / "train/images/0.jpg").write_bytes(b"hello")
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(masks / "1.png")
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(masks / "2.png")
    faults = ("0.jpg cannot be read as an image", "1.jpg has 48 x 40 pixels but", "2.png has values of no class: 77")
    printed = message(own_data)
    assert printed.startswith(f"3 faults in {own_data}:\n")
    assert [line for line in printed.splitlines() if any(fault in line for fault in faults)] == printed.splitlines()[1:]
    (masks / "4.png").unlink()
    (own_data / "train/images/5.jpg").unlink()
    printed = message(own_data, opens=True)
    assert printed.startswith("5 faults")
    for fault in (*faults, "for 1 image name: 4", "for 1 mask name: 5"):
        assert fault in printed


def test_twenty_faults_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=23)
    for index in range(23):
        (root / f"train/images/{index}.jpg").write_bytes(b"")
    lines = message(root).splitlines()
    assert lines[0].startswith("23 faults")
    assert len(lines) == 22
    assert lines[-1].strip() == "and 3 more"


def test_one_fault_stands_alone_and_nothing_is_cached(own_data: Path) -> None:
    (own_data / "train/images/3.jpg").write_bytes(b"")
    assert message(own_data).startswith(f"{own_data}/train/images/3.jpg cannot be read")
    assert not list((own_data.parent / "cache").rglob("*.npy"))


def test_faults_of_both_splits_are_in_one_message(own_data: Path) -> None:
    for split in ("train", "val"):
        (own_data / split / "images/1.jpg").write_bytes(b"")
        (own_data / split / "masks/2.png").unlink()
    for opens in (lambda: load_splits(config(own_data)), lambda: open_splits(config(own_data), "train", "val")):
        with pytest.raises(InputError) as refusal:
            opens()
        printed = str(refusal.value)
        assert printed.startswith("4 faults")
        for split in ("train", "val"):
            assert f"{own_data}/{split}/images/1.jpg cannot be read" in printed
            assert f"no mask in {own_data}/{split}/masks for 1 image name: 2" in printed
