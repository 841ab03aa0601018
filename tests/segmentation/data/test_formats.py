"""Each data set's layout: what is read, and what is said of a wrong one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import DATASETS, load_split
from segmentation.data.shapes import COUNTS, draw
from segmentation.errors import InputError
from tests.conftest import CAMVID, needs_camvid, write_pair


def opened(dataset: str, root: Path, split: str = "train", size: int = 16) -> np.ndarray:
    return load_split(DataConfig(dataset=dataset, data_dir=str(root), resize=size, crop=size), split).masks


def test_voc_is_read_with_its_void_and_odd_sizes(voc: Path) -> None:
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=32, crop=32)
    train, val = load_split(config, "train"), load_split(config, "val")
    assert (train.images.shape, val.images.shape) == ((4, 32, 32, 3), (2, 32, 32, 3))
    assert train.names[0] == "train_000000"
    assert len(train.labels) == 21
    assert set(np.unique(train.masks)) <= {0, 1, 2, 255}
    source = DATASETS["voc2007"](config, "train").read(0)
    assert source.image.size == (41, 33)
    assert (source.mask[0] == 255).all()
    reference = np.asarray(Image.open(voc / "VOCdevkit/VOC2007/SegmentationClass/train_000000.png"))
    np.testing.assert_array_equal(source.mask, reference)


def test_voc_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no VOCdevkit/VOC2012.*-P download=true"):
        opened("voc2012", tmp_path)


def test_voc_names_the_files_that_its_list_promises(voc: Path) -> None:
    (voc / "VOCdevkit/VOC2007/SegmentationClass/train_000002.png").unlink()
    with pytest.raises(InputError, match=r"names 1 file\(s\) that are not there: .*train_000002.png"):
        opened("voc2007", voc)


@needs_camvid
def test_camvid_has_eleven_classes_and_void() -> None:
    split = load_split(DataConfig(dataset="camvid", data_dir=str(CAMVID), resize=32, crop=32), "val")
    assert len(split) == 101
    assert len(split.labels) == 11
    assert set(np.unique(split.masks)) <= {*range(11), 255}
    raw = np.asarray(Image.open(CAMVID / "valannot" / f"{split.names[0]}.png"))
    source = DATASETS["camvid"](DataConfig(dataset="camvid", data_dir=str(CAMVID)), "val").read(0)
    np.testing.assert_array_equal(source.mask, np.where(raw == 11, 255, raw))


@needs_camvid
def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="split='vall' is not known. Did you mean 'val'\\? Known: train, val"):
        opened("camvid", CAMVID, "vall")


def test_shapes_are_the_same_for_the_same_seed_only(tmp_path: Path) -> None:
    config = DataConfig(dataset="shapes", resize=64, crop=64)
    first, second = load_split(config, "val"), load_split(config, "val")
    other = load_split(DataConfig(dataset="shapes", resize=64, crop=64, dataset_seed=1), "val")
    assert len(first) == COUNTS["val"]
    assert first.fingerprint == second.fingerprint != other.fingerprint
    np.testing.assert_array_equal(first.images, second.images)
    assert set(np.unique(first.masks)) == {0, 1, 2, 3, 4, 5, 255}


def test_shapes_of_train_and_val_differ() -> None:
    image, mask = draw(np.random.default_rng([0, 0, 0]))
    other, _ = draw(np.random.default_rng([0, 1, 0]))
    assert image.shape == (128, 128, 3)
    assert mask.shape == (128, 128)
    assert not np.array_equal(image, other)


def subfolders(root: Path, data: Path) -> None:
    shutil.copytree(data, root)


def by_kind(root: Path, data: Path) -> None:
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            shutil.copytree(data / split / kind, root / kind / split)
    shutil.copy(data / "classes.txt", root)


def split_files(root: Path, data: Path) -> None:
    for split in ("train", "val"):
        names = []
        for image in sorted((data / split / "images").iterdir()):
            for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
                target = root / kind / "sub" / f"{split}{image.stem}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / split / kind / f"{image.stem}{suffix}", target)
            names.append(f"sub/{split}{image.stem}" + (".jpg" if split == "val" else ""))
        (root / f"{split}.txt").write_text("\n".join(names))
    shutil.copy(data / "classes.txt", root)


@pytest.mark.parametrize("layout", [subfolders, by_kind, split_files])
def test_three_layouts_of_a_folder_hold_the_same_pictures(
    layout: Callable[[Path, Path], None], own_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "laid out"
    layout(root, own_data)
    for split in ("train", "val"):
        np.testing.assert_array_equal(opened("folder", root, split), opened("folder", own_data, split))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_may_be_palette_or_tif(suffix: str, own_data: Path) -> None:
    expected = opened("folder", own_data)
    for mask in sorted((own_data / "train/masks").iterdir()):
        picture = Image.open(mask)
        picture.putpalette(list(range(256)) * 3)
        mask.unlink()
        picture.save(mask.with_suffix(suffix))
    np.testing.assert_array_equal(opened("folder", own_data), expected)


def test_classes_json_maps_mask_values_so_that_255_can_be_a_class(own_data: Path) -> None:
    (own_data / "classes.txt").unlink()
    (own_data / "classes.json").write_text(json.dumps({"ground": 0, "object": 255}))
    for index in range(6):
        Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((10, 12), np.uint8))).save(
            own_data / f"train/masks/{index}.png"
        )
    assert set(np.unique(opened("folder", own_data))) == {0, 1}


def test_a_greyscale_mask_of_one_bit_is_read(own_data: Path) -> None:
    for index in range(6):
        mask = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((10, 12), np.uint8))).convert("1")
        mask.save(own_data / f"train/masks/{index}.png")
    assert set(np.unique(opened("folder", own_data))) == {0, 1}


def remove_a_mask(root: Path) -> None:
    (root / "train/masks/3.png").unlink()


def remove_an_image(root: Path) -> None:
    (root / "train/images/3.jpg").unlink()


def resize_a_mask(root: Path) -> None:
    file = root / "train/masks/2.png"
    Image.open(file).resize((30, 20), Image.Resampling.NEAREST).save(file)


def strange_value(root: Path) -> None:
    file = root / "train/masks/2.png"
    values = np.array(Image.open(file))
    values[3:5, :6] = 77
    Image.fromarray(values).save(file)


def cut_off(root: Path) -> None:
    file = root / "train/images/4.jpg"
    file.write_bytes(file.read_bytes()[:300])


def not_an_image(root: Path) -> None:
    (root / "train/images/4.jpg").write_text("hello")


def colour_mask(root: Path) -> None:
    file = root / "train/masks/1.png"
    Image.open(file).convert("RGB").save(file)


def jpeg_mask(root: Path) -> None:
    file = root / "train/masks/1.png"
    Image.open(file).save(file.with_suffix(".jpg"))
    file.unlink()


def no_bytes(root: Path) -> None:
    (root / "train/images/4.jpg").write_bytes(b"")


def empty_split(root: Path) -> None:
    for file in [*(root / "train/images").iterdir(), *(root / "train/masks").iterdir()]:
        file.unlink()


def no_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


def bad_json(root: Path) -> None:
    (root / "classes.json").write_text('{"a": ')


def json_of_another_kind(root: Path) -> None:
    (root / "classes.json").write_text('{"a": 0, "b": 0}')


def twin_names(root: Path) -> None:
    write_pair(root / "train/images/1.png", root / "train/masks/1.png", (48, 40), 1, palette=False)


def sixteen_bits(root: Path) -> None:
    (root / "train/images/0.jpg").unlink()
    Image.fromarray(np.full((40, 48), 40000, np.uint16)).save(root / "train/images/0.png")


def all_void(root: Path) -> None:
    for file in (root / "train/masks").iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(file)


def no_layout(root: Path) -> None:
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")


BROKEN = [
    (remove_a_mask, r"no mask in .*train/masks for 1 image name\(s\): 3"),
    (remove_an_image, r"no image in .*train/images for 1 mask name\(s\): 3"),
    (resize_a_mask, r"2.jpg has 48 x 40 pixels but its mask .*2.png has 30 x 20"),
    (strange_value, r"2.png has values that are no class: 77 \(12 pixels\); known values: 0-2, 255"),
    (cut_off, r"4.jpg cannot be read as an image, it is damaged or cut off"),
    (not_an_image, r"4.jpg cannot be read as an image"),
    (colour_mask, r"1.png is a colour image \(mode RGB\)"),
    (jpeg_mask, r"mask .*1.jpg is a JPEG, which does not keep class indices exactly"),
    (no_bytes, r"4.jpg cannot be read as an image: it is empty, or of no known format"),
    (empty_split, r"split='train' of folder in .* is empty"),
    (no_classes, r"has no classes.txt: write one"),
    (bad_json, r"classes.json is not JSON"),
    (json_of_another_kind, r"classes.json must be a list of names, or an object"),
    (twin_names, r"have the same name but for the ending"),
    (sixteen_bits, r"0.png has more than 8 bits a channel"),
    (all_void, r"split='train' of folder in .* is all void"),
    (no_layout, r"none of the layouts of dataset=folder"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[damage.__name__ for damage, _ in BROKEN])
def test_what_is_wrong_with_a_folder_is_said(damage: Callable[[Path], None], message: str, own_data: Path) -> None:
    damage(own_data)
    with pytest.raises(InputError, match=message):
        opened("folder", own_data)


def test_only_voc_can_be_downloaded(own_data: Path) -> None:
    with pytest.raises(InputError, match="download=True: only voc2007 and voc2012 can be fetched"):
        load_split(DataConfig(dataset="folder", data_dir=str(own_data), download=True), "train")


def test_pictures_of_different_size_need_a_crop(own_data: Path) -> None:
    write_pair(own_data / "train/images/9.jpg", own_data / "train/masks/9.png", (40, 48), 1, palette=False)
    with pytest.raises(InputError, match=r"after preparation 0 has 48 x 40 pixels but 9 has 40 x 48; set resize"):
        load_split(DataConfig(dataset="folder", data_dir=str(own_data), resize=None, crop=None), "train")
