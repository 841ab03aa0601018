"""Cityscapes and ADE20K in the folders of their archives."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.errors import InputError
from tests.conftest import write_blank

TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Of Cityscapes' own scripts, `cityscapesscripts/helpers/labels.py`."""


def saved(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file)


def test_cityscapes_has_19_classes_and_the_others_are_void(tmp_path: Path) -> None:
    values = np.array([[*range(34), 255, 0]])
    for split, city in (("train", "aachen"), ("val", "ulm")):
        stem = f"{split}/{city}/{city}_000000_000019"
        saved(np.zeros((1, 36)), tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
        for kind in ("color", "instanceIds", "labelIds"):
            saved(values, tmp_path / f"gtFine/{stem}_gtFine_{kind}.png")
    source = open_split(DataConfig(dataset="cityscapes", data_dir=str(tmp_path)), "val")
    assert (len(source.labels), source.labels.names[TRAIN_IDS[26]]) == (19, "car")
    assert source.names == ("ulm/ulm_000000_000019",)
    expected = [TRAIN_IDS.get(value, VOID) for value in values[0].tolist()]
    np.testing.assert_array_equal(source.read(0).mask, [expected])


def test_an_unpacked_half_of_cityscapes_is_reported_with_the_archives(tmp_path: Path) -> None:
    write_blank(tmp_path, "leftImg8bit/train/aachen/a_leftImg8bit.png")
    with pytest.raises(InputError, match=r"no folder gtFine; unpack .*gtFine_trainvaltest\.zip"):
        open_split(DataConfig(dataset="cityscapes", data_dir=str(tmp_path)), "train")
    write_blank(tmp_path, "gtFine/train/aachen/b_gtFine_labelIds.png")
    with pytest.raises(InputError, match=r"no mask in .*gtFine/train for 1 image name: aachen/a"):
        open_split(DataConfig(dataset="cityscapes", data_dir=str(tmp_path)), "train")


@pytest.mark.parametrize("folder", [".", "ADEChallengeData2016"])
def test_ade20k_has_150_classes_and_0_is_void(folder: str, tmp_path: Path) -> None:
    values = np.arange(151)[None]
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        saved(np.zeros((1, 151)), tmp_path / folder / f"images/{split}/{name}.jpg")
        saved(values, tmp_path / folder / f"annotations/{split}/{name}.png")
    source = open_split(DataConfig(dataset="ade20k", data_dir=str(tmp_path)), "val")
    assert source.names == ("ADE_val_00000001",)
    assert (len(source.labels), source.labels.names[0], source.labels.names[149]) == (150, "wall", "flag")
    assert [source.labels.names[index - 1] for index in (13, 21, 150)] == ["person", "car", "flag"]
    np.testing.assert_array_equal(source.read(0).mask, [[VOID, *range(150)]])
    with pytest.raises(InputError, match="split='test'"):
        open_split(DataConfig(dataset="ade20k", data_dir=str(tmp_path)), "test")
