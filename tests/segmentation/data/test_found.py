"""Which files are found and how they are matched, in training and in prediction; what masks cover."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import DATASETS, load_split, report_coverage
from segmentation.data.pairs import match
from segmentation.errors import InputError
from segmentation.prediction.inputs import find_images, read_image

GREY = Image.fromarray(np.zeros((6, 8), np.uint8))


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        GREY.save(folder / name)


def names(root: Path, split: str = "train") -> list[str]:
    return list(DATASETS["folder"](DataConfig(dataset="folder", data_dir=str(root)), split).names)


def test_what_systems_and_tools_leave_is_no_picture_in_training_nor_in_prediction(tmp_path: Path) -> None:
    write(tmp_path / "images", "a.png", "sub/B.PNG", "c.webp", "d.bmp", "e.gif")
    write(tmp_path / "masks", "a.png", "sub/B.png", "c.png", "d.bmp", "e.gif")
    for left in (".ipynb_checkpoints/a-checkpoint.png", "._a.png", "sub/.x/y.png", "__MACOSX/._a.png", "__MACOSX/a.png",
                 "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "$RECYCLE.BIN/z.png"):  # fmt: skip
        write(tmp_path / "images", left)
    for left in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.docx"):
        (tmp_path / "images" / left).write_text("x")
    found = match(tmp_path / "images", tmp_path / "masks")
    assert list(found) == ["a", "c", "d", "e", "sub/B"]
    predicted = find_images(tmp_path / "images", tmp_path / "out")
    assert sorted(predicted.values()) == sorted(image for image, _ in found.values())


def test_folders_that_are_links_are_read_and_loops_end(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        write(tmp_path / f"disk/{kind}", "far/a.png")
        write(tmp_path / kind, "b.png")
        (tmp_path / kind / "linked").symlink_to(tmp_path / f"disk/{kind}/far")
        (tmp_path / kind / "again").symlink_to(tmp_path / f"disk/{kind}/far")
        (tmp_path / kind / "loop").symlink_to(tmp_path / kind)
        (tmp_path / f"disk/{kind}/far/up").symlink_to(tmp_path / kind)
    found = match(tmp_path / "images", tmp_path / "masks")
    assert {"b", "linked/a", "again/a"} <= found.keys()
    predicted = find_images(tmp_path / "images", tmp_path / "out")
    assert [Path(name).with_suffix("").as_posix() for name in predicted] == sorted(found)


def listed(root: Path) -> None:
    write(root, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b.png\n")


def grouped(root: Path) -> None:
    write(root, "images/train/a.png", "masks/train/a.png", "images/val/b.png", "masks/val/b.png")


def nested(root: Path) -> None:
    write(root, "train/images/a.png", "train/masks/a.png", "val/images/b.png", "val/masks/b.png")
    write(root, "__MACOSX/images/a.png", ".ipynb_checkpoints/images/a.png")


@pytest.mark.parametrize("layout", [listed, grouped, nested])
def test_other_texts_beside_the_pictures_are_no_splits(layout: Callable[[Path], None], tmp_path: Path) -> None:
    layout(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for other in ("README", "LICENSE", "requirements", "notes"):
        (tmp_path / f"{other}.txt").write_text("These are\nour pictures\n../../no list\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path, "val") == ["b"]
    with pytest.raises(InputError, match=r"Did you mean 'val'\? Known: train, val\."):
        names(tmp_path, "vall")


def test_texts_without_a_list_are_no_layout(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "README.txt").write_text("hello\n")
    with pytest.raises(InputError, match="has none of the layouts of dataset=folder"):
        names(tmp_path)


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFD"), ("NFD", "NFD", "NFC")])
def test_names_match_in_any_unicode_form(forms: tuple[str, str, str], tmp_path: Path) -> None:
    image, mask, line = (unicodedata.normalize(form, "Straße/Grün é.v2") for form in forms)
    write(tmp_path, f"images/{image}.png", f"masks/{mask}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "train.txt").write_text(f"{line}\n")
    (tmp_path / "val.txt").write_text(f"{line}.png\n")
    expected = [unicodedata.normalize("NFC", image)]
    assert names(tmp_path) == names(tmp_path, "val") == expected
    assert list(match(tmp_path / "images", tmp_path / "masks")) == expected
    both = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    write(tmp_path / "twice", *both)
    with pytest.raises(InputError, match="have the same name but for the ending or its Unicode form"):
        match(tmp_path / "twice", tmp_path / "masks")


def test_voc_s_list_may_have_another_unicode_form(voc: Path) -> None:
    root = voc / "VOCdevkit/VOC2007"
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (root / "JPEGImages/train_000000.jpg").rename(root / f"JPEGImages/{apart}.jpg")
    (root / "SegmentationClass/train_000000.png").rename(root / f"SegmentationClass/{apart}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{composed}\n")
    source = DATASETS["voc2007"](DataConfig(data_dir=str(voc)), "train")
    assert source.read(0).mask.shape == (33, 41)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.png", "a_mask.png"), ("a.png", "a_gt.png"), ("a.png", "a_label.png"), ("a.png", "a_labels.tif"),
        ("a.png", "a-mask.png"), ("a.png", "mask_a.png"), ("a.png", "A.png"), ("x_1.png", "x-1.png"),
        ("a_leftImg8bit.png", "a_gtFine_labelIds.png"), ("a.png", "a.png.png"), ("a.png", "sub/a.png"),
        ("img_07.png", "mask_07.png"), ("a.jpg", "a_L.png"), ("a.png", "a_labelTrainIds.png"),
    ],
)  # fmt: skip
def test_a_near_miss_is_named(image: str, mask: str, tmp_path: Path) -> None:
    write(tmp_path, f"images/{image}", f"images/other_{image}", f"masks/{mask}", f"masks/other_{Path(image).stem}.png")
    for stems in (None, [Path(image).stem]):
        with pytest.raises(InputError) as refusal:
            match(tmp_path / "images", tmp_path / "masks", stems)
        assert f"Is {tmp_path / 'masks' / mask} meant for '{Path(image).stem}'?" in str(refusal.value)
        assert f"rename it to {Path(image).stem}{Path(mask).suffix}" in str(refusal.value)


def test_of_cityscapes_masks_the_labels_are_named_and_no_other_picture_s_mask(tmp_path: Path) -> None:
    write(tmp_path, "images/a_leftImg8bit.png")
    write(tmp_path / "masks", *(f"a_gtFine_{kind}.png" for kind in ("color", "instanceIds", "labelIds")))
    with pytest.raises(InputError, match=r"Is .*masks/a_gtFine_labelIds\.png meant for 'a_leftImg8bit'"):
        match(tmp_path / "images", tmp_path / "masks")
    write(tmp_path, "two/images/a.png", "two/images/b.png", "two/masks/b.png")
    with pytest.raises(InputError) as refusal:
        match(tmp_path / "two/images", tmp_path / "two/masks")
    assert "meant" not in str(refusal.value)


def test_a_listed_name_in_another_case_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, "images/IMG_1.png", "masks/IMG_1.png")
    with pytest.raises(InputError, match=r"listed name\(s\): img_1\. Is .*IMG_1\.png meant for 'img_1'"):
        match(tmp_path / "images", tmp_path / "masks", ["img_1"])


def turned(root: Path, image: int, mask: int | None) -> None:
    """One picture of 48 x 40 pixels with EXIF orientations."""
    for file, value in (("train/images/0.jpg", image), ("train/masks/0.png", mask)):
        exif = Image.Exif()
        exif[0x0112] = value or 1
        with Image.open(root / file) as picture:
            picture.load()
        picture.save(root / file, exif=exif)


@pytest.mark.parametrize(("image", "mask"), [(3, 3), (6, 6), (8, 8), (5, 5), (3, None), (1, 3)])
def test_training_and_prediction_turn_a_picture_alike_and_its_mask_too(
    image: int, mask: int | None, own_data: Path
) -> None:
    turned(own_data, image, mask)
    picture = DATASETS["folder"](DataConfig(dataset="folder", data_dir=str(own_data)), "train").read(0)
    np.testing.assert_array_equal(picture.image, read_image(own_data / "train/images/0.jpg"))
    with Image.open(own_data / "train/masks/0.png") as stored:
        turns = {3: 2, 6: 3, 8: 1}.get(mask or 1, 0)
        expected = np.asarray(stored).T if mask == 5 else np.rot90(np.asarray(stored), turns)
    np.testing.assert_array_equal(picture.mask, expected)


@pytest.mark.parametrize(("image", "mask"), [(6, None), (8, 3), (5, 1), (1, 6)])
def test_a_mask_that_fits_the_unturned_picture_alone_is_told_with_the_word_exif(
    image: int, mask: int | None, own_data: Path
) -> None:
    turned(own_data, image, mask)
    source = DATASETS["folder"](DataConfig(dataset="folder", data_dir=str(own_data)), "train")
    with pytest.raises(InputError, match=rf"0\.jpg has .* EXIF orientations are {image} and {mask or 1}"):
        source.read(0)


def binary(root: Path, values: tuple[int, ...] = (0, 255), split: str = "train") -> None:
    for file in (root / split / "masks").iterdir():
        blocks = np.random.default_rng(int(file.stem)).choice(np.array(values, np.uint8), (5, 6))
        Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8))).save(file)


def loaded(root: Path, split: str = "train"):
    return load_split(DataConfig(dataset="folder", data_dir=str(root), resize=None, crop=None), split)


def test_masks_of_0_and_255_with_two_classes_are_refused_with_what_to_write(own_data: Path) -> None:
    (own_data / "classes.txt").write_text("background\nroad\n")
    binary(own_data)
    for _ in range(2):  # prepared, then found prepared
        with pytest.raises(InputError, match=r"no pixel of folder/train is of class road, and .*% are void") as refusal:
            report_coverage(loaded(own_data), to_train=True)
    content = str(refusal.value)[str(refusal.value).index("{") :]
    assert json.loads(content) == {"background": 0, "road": 255}
    assert f"{own_data}/classes.json" in str(refusal.value)
    (own_data / "classes.json").write_text(content)
    report_coverage(loaded(own_data), to_train=True)
    assert set(np.unique(loaded(own_data).masks)) == {0, 1}


def test_a_class_without_a_pixel_and_mostly_void_are_told_once(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary(own_data, (0, 1, 255, 255, 255, 255))
    void = np.mean([np.asarray(Image.open(file)) == 255 for file in (own_data / "train/masks").iterdir()])
    for _ in range(2):
        report_coverage(loaded(own_data), to_train=True)
    said = capsys.readouterr().out
    assert said.count("WARNING: no pixel of folder/train is of class blue") == 1
    assert said.count(f"WARNING: {void:.1%} of the pixels of folder/train are void") == 1
    report_coverage(loaded(own_data, "val"))
    assert not capsys.readouterr().out


def test_a_foreground_of_255_is_told_of_more_classes_and_of_what_is_scored(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary(own_data)
    report_coverage(loaded(own_data), to_train=True)
    assert '{"red": 0, "green": 255, "blue": 2}' in capsys.readouterr().out
    (own_data / "classes.txt").write_text("background\nroad\n")
    binary(own_data, split="val")
    report_coverage(loaded(own_data, "val"))
    assert '{"background": 0, "road": 255}' in capsys.readouterr().out


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "images/sub/a.png", "masks/sub/a.png")
    real = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("images/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"folder .*images/sub cannot be read: Permission denied"):
        match(tmp_path / "images", tmp_path / "masks")
