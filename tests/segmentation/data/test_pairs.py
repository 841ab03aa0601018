"""How image files and mask files are matched, oriented and compared."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.data.pairs import matched
from segmentation.errors import InputError
from segmentation.io.decoding import read_image
from tests.conftest import write_blank


def match(image_dir: Path, mask_dir: Path, stems: list[str] | None = None) -> dict[str, tuple[Path, Path | None]]:
    """Images with their masks; the first fault is raised."""
    files, faults = matched(image_dir, mask_dir, stems)
    if faults:
        raise InputError(faults[0])
    return files


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFD"), ("NFD", "NFD", "NFC")])
def test_names_match_in_any_unicode_form(forms: tuple[str, str, str], tmp_path: Path) -> None:
    image, mask, line = (unicodedata.normalize(form, "Straße/Grün é.v2") for form in forms)
    write_blank(tmp_path, f"images/{image}.png", f"masks/{mask}.png")
    expected = [unicodedata.normalize("NFC", image)]
    for stems in (None, [line], [f"{line}.png"]):
        assert list(match(tmp_path / "images", tmp_path / "masks", stems)) == expected
    both = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    write_blank(tmp_path / "twice", *both)
    with pytest.raises(InputError, match="differ only in the ending or the Unicode form"):
        match(tmp_path / "twice", tmp_path / "masks")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.png", "a_mask.png"), ("a.png", "a_gt.png"), ("a.png", "a_label.png"), ("a.png", "a_labels.tif"),
        ("a.png", "a-mask.png"), ("a.png", "mask_a.png"), ("a.png", "A.png"), ("x_1.png", "x-1.png"),
        ("a_leftImg8bit.png", "a_gtFine_labelIds.png"), ("a.png", "a.png.png"), ("a.png", "sub/a.png"),
        ("img_07.png", "mask_07.png"), ("a.jpg", "a_L.png"), ("a.png", "a_labelTrainIds.png"),
    ],
)  # fmt: skip
def test_a_file_with_a_similar_name_is_suggested(image: str, mask: str, tmp_path: Path) -> None:
    write_blank(
        tmp_path, f"images/{image}", f"images/other_{image}", f"masks/{mask}", f"masks/other_{Path(image).stem}.png"
    )
    for stems in (None, [Path(image).stem]):
        with pytest.raises(InputError) as refusal:
            match(tmp_path / "images", tmp_path / "masks", stems)
        assert f"Is {tmp_path / 'masks' / mask} meant for '{Path(image).stem}'?" in str(refusal.value)
        assert f"rename it to {Path(image).stem}{Path(mask).suffix}" in str(refusal.value)


def test_the_label_masks_of_cityscapes_are_suggested_and_masks_of_other_images_are_not(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/a_leftImg8bit.png")
    write_blank(tmp_path / "masks", *(f"a_gtFine_{kind}.png" for kind in ("color", "instanceIds", "labelIds")))
    with pytest.raises(InputError, match=r"Is .*masks/a_gtFine_labelIds\.png meant for 'a_leftImg8bit'"):
        match(tmp_path / "images", tmp_path / "masks")
    write_blank(tmp_path, "two/images/a.png", "two/images/b.png", "two/masks/b.png")
    with pytest.raises(InputError) as refusal:
        match(tmp_path / "two/images", tmp_path / "two/masks")
    assert "meant" not in str(refusal.value)


def test_a_listed_name_in_another_case_suggests_the_file(tmp_path: Path) -> None:
    write_blank(tmp_path, "images/IMG_1.png", "masks/IMG_1.png")
    with pytest.raises(InputError, match=r"listed name: img_1\. Is .*IMG_1\.png meant for 'img_1'"):
        match(tmp_path / "images", tmp_path / "masks", ["img_1"])


def set_orientations(root: Path, image: int, mask: int | None) -> None:
    """Write EXIF orientations to one image and its mask, of 48 x 40 pixels."""
    for file, value in (("train/images/0.jpg", image), ("train/masks/0.png", mask)):
        exif = Image.Exif()
        exif[0x0112] = value or 1
        with Image.open(root / file) as stored:
            stored.load()
        stored.save(root / file, exif=exif)


@pytest.mark.parametrize(("image", "mask"), [(3, 3), (6, 6), (8, 8), (5, 5), (3, None), (1, 3)])
def test_orientations_are_applied_to_images_as_in_prediction_and_to_masks(
    image: int, mask: int | None, own_data: Path
) -> None:
    set_orientations(own_data, image, mask)
    original = open_split(DataConfig(dataset="folder", data_dir=str(own_data)), "train").read(0)
    np.testing.assert_array_equal(original.image, read_image(own_data / "train/images/0.jpg"))
    with Image.open(own_data / "train/masks/0.png") as stored:
        turns = {3: 2, 6: 3, 8: 1}.get(mask or 1, 0)
        expected = np.asarray(stored).T if mask == 5 else np.rot90(np.asarray(stored), turns)
    np.testing.assert_array_equal(original.mask, expected)


@pytest.mark.parametrize(("image", "mask"), [(6, None), (8, 3), (5, 1), (1, 6)])
def test_sizes_that_only_the_orientations_make_unequal_are_reported_with_them(
    image: int, mask: int | None, own_data: Path
) -> None:
    set_orientations(own_data, image, mask)
    source = open_split(DataConfig(dataset="folder", data_dir=str(own_data)), "train")
    with pytest.raises(InputError, match=rf"0\.jpg has .* EXIF orientations are {image} and {mask or 1}"):
        source.read(0)
