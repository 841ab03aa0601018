import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import load_split, open_split
from segmentation.errors import InputError


def test_images_and_masks_are_read_with_void_and_odd_sizes(voc: Path) -> None:
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=32, crop=32)
    train, val = load_split(config, "train"), load_split(config, "val")
    assert (train.images.shape, val.images.shape) == ((4, 32, 32, 3), (2, 32, 32, 3))
    assert train.names[0] == "train_000000"
    assert len(train.labels) == 21
    assert set(np.unique(train.masks)) <= {0, 1, 2, 255}
    original = open_split(config, "train").read(0)
    assert original.image.size == (41, 33)
    assert (original.mask[0] == 255).all()
    stored = np.asarray(Image.open(voc / "VOCdevkit/VOC2007/SegmentationClass/train_000000.png"))
    np.testing.assert_array_equal(original.mask, stored)


def test_a_missing_data_set_is_reported_with_the_way_to_download_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"VOCdevkit/VOC2012.*-P download=true"):
        open_split(DataConfig(dataset="voc2012", data_dir=str(tmp_path)), "train")


def test_only_voc_can_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="download=True .*voc2007 and voc2012.*dataset=folder"):
        open_split(DataConfig(dataset="folder", data_dir=str(tmp_path), download=True), "train")


def test_missing_files_of_the_list_are_reported(voc: Path) -> None:
    (voc / "VOCdevkit/VOC2007/SegmentationClass/train_000002.png").unlink()
    with pytest.raises(InputError, match=r"lists 1 missing file: .*train_000002.png"):
        open_split(DataConfig(dataset="voc2007", data_dir=str(voc)), "train")


def test_the_list_may_have_another_unicode_form_than_the_files(voc: Path) -> None:
    root = voc / "VOCdevkit/VOC2007"
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (root / "JPEGImages/train_000000.jpg").rename(root / f"JPEGImages/{decomposed}.jpg")
    (root / "SegmentationClass/train_000000.png").rename(root / f"SegmentationClass/{decomposed}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{composed}\n")
    assert open_split(DataConfig(data_dir=str(voc)), "train").read(0).mask.shape == (33, 41)
