"""The three layouts of a user's folder, and the messages about what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import load_split, open_split
from segmentation.errors import InputError
from tests.conftest import write_blank, write_pair


def masks(root: Path, split: str = "train") -> np.ndarray:
    return load_split(DataConfig(dataset="folder", data_dir=str(root), resize=16, crop=16), split).masks


def names(root: Path, split: str = "train") -> list[str]:
    return list(open_split(DataConfig(dataset="folder", data_dir=str(root)), split).names)


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
def test_the_three_layouts_hold_the_same_images(
    layout: Callable[[Path, Path], None], own_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    layout(root, own_data)
    for split in ("train", "val"):
        np.testing.assert_array_equal(masks(root, split), masks(own_data, split))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_may_be_palette_or_tif(suffix: str, own_data: Path) -> None:
    expected = masks(own_data)
    for mask in sorted((own_data / "train/masks").iterdir()):
        palette_mask = Image.open(mask)
        palette_mask.putpalette(list(range(256)) * 3)
        mask.unlink()
        palette_mask.save(mask.with_suffix(suffix))
    np.testing.assert_array_equal(masks(own_data), expected)


def test_classes_json_maps_mask_values_so_that_255_can_be_a_class(own_data: Path) -> None:
    (own_data / "classes.txt").unlink()
    (own_data / "classes.json").write_text(json.dumps({"ground": 0, "object": 255}))
    for index in range(6):
        Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((10, 12), np.uint8))).save(
            own_data / f"train/masks/{index}.png"
        )
    assert set(np.unique(masks(own_data))) == {0, 1}


def test_a_greyscale_mask_of_one_bit_is_read(own_data: Path) -> None:
    for index in range(6):
        mask = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((10, 12), np.uint8))).convert("1")
        mask.save(own_data / f"train/masks/{index}.png")
    assert set(np.unique(masks(own_data))) == {0, 1}


def remove_a_mask(root: Path) -> None:
    (root / "train/masks/3.png").unlink()


def remove_an_image(root: Path) -> None:
    (root / "train/images/3.jpg").unlink()


def resize_a_mask(root: Path) -> None:
    file = root / "train/masks/2.png"
    Image.open(file).resize((30, 20), Image.Resampling.NEAREST).save(file)


def unknown_value(root: Path) -> None:
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
    (remove_a_mask, r"no mask in .*train/masks for 1 image name: 3"),
    (remove_an_image, r"no image in .*train/images for 1 mask name: 3"),
    (resize_a_mask, r"2.jpg has 48 x 40 pixels but its mask .*2.png has 30 x 20"),
    (unknown_value, r"2.png has values of no class: 77 \(12 pixels\); known values: 0-2, 255"),
    (cut_off, r"4.jpg cannot be read as an image; the file is damaged or cut off"),
    (not_an_image, r"4.jpg cannot be read as an image"),
    (colour_mask, r"1.png is a colour image \(mode RGB\)"),
    (jpeg_mask, r"mask .*1.jpg is a JPEG, which does not store class indices exactly"),
    (no_bytes, r"4.jpg cannot be read as an image: it is empty, or of no known format"),
    (empty_split, r"split='train' of folder in .* is empty"),
    (no_classes, r"has no classes.txt: write one"),
    (bad_json, r"classes.json cannot be read as JSON"),
    (json_of_another_kind, r"classes.json: value 0 is stated for 'a' and for 'b'"),
    (twin_names, r"differ only in the ending"),
    (sixteen_bits, r"0.png has 1 channel of 16 bits; expected 3 channels. Train with channels=1"),
    (all_void, r"split='train' of folder in .* is all void"),
    (no_layout, r"none of the layouts of dataset=folder"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[damage.__name__ for damage, _ in BROKEN])
def test_each_mistake_is_reported_with_the_file(damage: Callable[[Path], None], message: str, own_data: Path) -> None:
    damage(own_data)
    with pytest.raises(InputError, match=message):
        masks(own_data)


def test_images_of_different_sizes_need_a_crop(own_data: Path) -> None:
    write_pair(own_data / "train/images/9.jpg", own_data / "train/masks/9.png", (40, 48), 1, palette=False)
    with pytest.raises(InputError, match=r"after preparation 0 has 48 x 40 pixels but 9 has 40 x 48; set resize"):
        load_split(DataConfig(dataset="folder", data_dir=str(own_data), resize=None, crop=None), "train")


def listed(root: Path) -> None:
    write_blank(root, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b.png\n")


def grouped(root: Path) -> None:
    write_blank(root, "images/train/a.png", "masks/train/a.png", "images/val/b.png", "masks/val/b.png")


def nested(root: Path) -> None:
    write_blank(root, "train/images/a.png", "train/masks/a.png", "val/images/b.png", "val/masks/b.png")
    write_blank(root, "__MACOSX/images/a.png", ".ipynb_checkpoints/images/a.png")


@pytest.mark.parametrize("layout", [listed, grouped, nested])
def test_other_text_files_are_not_splits(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for other in ("README", "LICENSE", "requirements", "notes"):
        (tmp_path / f"{other}.txt").write_text("These are\nour images\n../../no list\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path, "val") == ["b"]
    with pytest.raises(InputError, match=r"Did you mean 'val'\? Known: train, val\."):
        names(tmp_path, "vall")


def test_a_folder_whose_text_files_list_no_image_is_a_training_split(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "README.txt").write_text("hello\n")
    assert names(tmp_path) == ["a"]
    with pytest.raises(InputError, match=r"has no split 'val' .*only train\..*val_fraction"):
        names(tmp_path, "val")


def test_another_name_of_the_folder_of_masks_is_pointed_out(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/a.png", "labels/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="images and masks .*val_fraction.*folders images, labels: .*masks in masks"):
        names(tmp_path)


def test_splits_that_are_held_out_are_among_the_known_ones(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    divided = DataConfig(dataset="folder", data_dir=str(tmp_path), val_fraction=0.2, calibration_fraction=0.1)
    with pytest.raises(InputError, match="split='test' is not known.*Known: train, val, held_out"):
        open_split(divided, "test")


def suffixed(root: Path, image: str, mask: str) -> None:
    for split in ("train", "val"):
        for index in range(2):
            write_pair(root / f"{split}/{image.format(index)}", root / f"{split}/{mask.format(index)}", (20, 16), index)
    (root / "classes.txt").write_text("background\ngreen\nblue\n")


SUFFIXED = {
    "one suffix": ("images/{}.jpg", "masks/{}_mask.png", {"mask_suffix": "_mask"}),
    "with the ending": ("images/{}.jpg", "masks/{}_mask.png", {"mask_suffix": "_mask.png"}),
    "both": (
        "images/{}_leftImg8bit.png", "masks/{}_gtFine_labelIds.png",
        {"image_suffix": "_leftImg8bit", "mask_suffix": "_gtFine_labelIds"},
    ),
    "images and masks in images": ("images/{}.jpg", "images/{}_mask.png", {"mask_suffix": "_mask"}),
    "in the folder of the split": ("{}.jpg", "{}_mask.png", {"mask_suffix": "_mask"}),
}  # fmt: skip


@pytest.mark.parametrize(("image", "mask", "fields"), SUFFIXED.values(), ids=list(SUFFIXED))
def test_suffixes_are_not_part_of_the_name(image: str, mask: str, fields: dict[str, str], tmp_path: Path) -> None:
    suffixed(tmp_path, image, mask)
    if "masks/" in mask:
        write_blank(tmp_path, "train/masks/0_color.png")  # a mask of another kind
    for split in ("train", "val"):
        source = open_split(DataConfig(dataset="folder", data_dir=str(tmp_path), **fields), split)  # type: ignore[arg-type]
        assert source.names == ("0", "1")
        np.testing.assert_array_equal(source.read(1).mask, np.asarray(Image.open(tmp_path / split / mask.format(1))))


def test_lists_may_name_images_with_their_suffix(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/a_rgb.png", "images/b_rgb.png", "images/c_rgb.png", "masks/a.png", "masks/b.png")
    write_blank(tmp_path, "masks/c.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "train.txt").write_text("a\nb_rgb\nc_rgb.png\n")
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), image_suffix="_rgb")
    assert open_split(config, "train").names == ("a", "b", "c")


def test_the_suffixes_that_fit_are_suggested(tmp_path: Path) -> None:
    write_blank(tmp_path, "train/images/a_leftImg8bit.png", "train/masks/a_gtFine_labelIds.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="add image_suffix=_leftImg8bit mask_suffix=_gtFine_labelIds"):
        names(tmp_path)


def test_an_image_without_a_mask_is_background_if_empty_says_so(own_data: Path) -> None:
    (own_data / "train/masks/3.png").unlink()
    config = DataConfig(dataset="folder", data_dir=str(own_data), empty="background", resize=16, crop=16)
    with pytest.raises(InputError, match="empty=background needs a class named background; the classes are red, green"):
        open_split(config, "train")
    (own_data / "classes.txt").write_text("red\nbackground\nblue\n")
    with pytest.raises(InputError, match=r"for 1 image name: 3\. .*empty=background"):
        names(own_data)
    split = load_split(config, "train")
    assert split.names == ("0", "1", "2", "3", "4", "5")
    assert (split.masks[3] == 1).all()
    (own_data / "train/images/4.jpg").unlink()
    with pytest.raises(InputError, match=r"no image in .* for 1 mask name: 4"):
        open_split(config, "train")


def cvat(root: Path, images: bool = True) -> None:
    kinds = ("JPEGImages", "SegmentationClass") if images else ("SegmentationClass",)
    write_blank(root, *(f"{kind}/{name}.png" for kind in kinds for name in ("a", "b")))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a\nb\n")


def test_an_export_of_cvat_is_read_as_it_is(tmp_path: Path) -> None:
    cvat(tmp_path)
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), train_split="default")
    source = open_split(config, "default")
    assert (source.names, source.labels.names) == (("a", "b"), ("background", "car"))
    assert not source.read(0).mask.any()
    with pytest.raises(InputError, match=r"has no split 'val' .*only default\. .*val_fraction=0\.2"):
        open_split(config, "val")


def test_an_export_of_cvat_without_images_says_what_to_export(tmp_path: Path) -> None:
    cvat(tmp_path, images=False)
    with pytest.raises(InputError, match=r"no folder JPEGImages: .*Save images"):
        names(tmp_path, "default")


def test_a_missing_validation_split_says_how_to_do_without(own_data: Path) -> None:
    shutil.rmtree(own_data / "val")
    with pytest.raises(InputError, match=r"has no split 'val' .*val_fraction=0\.2"):
        names(own_data, "val")
    (own_data / "train").rename(own_data / "valid")
    assert len(names(own_data, "val")) == 6
    with pytest.raises(InputError) as refusal:
        names(own_data, "test")
    assert "val_fraction" not in str(refusal.value)


def test_a_validation_split_of_another_name_is_suggested(own_data: Path) -> None:
    (own_data / "val").rename(own_data / "holdout")
    with pytest.raises(InputError, match=r"has no split 'val' .*val_split=holdout"):
        names(own_data, "val")


def test_the_masks_of_roboflow_are_read_as_they_are(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_pair(tmp_path / split / "a_jpg.rf.0.jpg", tmp_path / split / "a_jpg.rf.0_mask.png", (20, 16), 1)
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    config = DataConfig(dataset="folder", data_dir=str(tmp_path), mask_suffix="_mask")
    for split in ("train", "val"):
        source = open_split(config, split)
        assert source.labels.names == ("background", "cat", "dog")
        assert set(np.unique(source.read(0).mask)) == {0, 1, 2, 255}
