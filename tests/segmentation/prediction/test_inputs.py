from pathlib import Path

import pytest

from segmentation.errors import InputError
from segmentation.prediction.inputs import find_images
from segmentation.prediction.outputs import TABLE
from tests.conftest import write_blank


def test_earlier_predictions_are_skipped(tmp_path: Path) -> None:
    write_blank(tmp_path, "a.png", "old/masks/a.png", "old/legend.png", "old/b.png", "out/masks/a.png", "masks/c.png")
    (tmp_path / "old" / TABLE).write_text("")
    assert list(find_images(tmp_path, tmp_path / "out").images) == ["a.png", "masks/c.png", "old/b.png"]


def test_a_single_image_is_found(tmp_path: Path) -> None:
    write_blank(tmp_path, "a\n.png")
    assert find_images(tmp_path / "a\n.png", tmp_path / "out").images == {"a\\n.png": tmp_path / "a\n.png"}


def test_a_missing_or_empty_folder_is_reported(tmp_path: Path) -> None:
    for folder, reason in ((tmp_path / "missing", "does not exist"), (tmp_path, "has no image")):
        with pytest.raises(InputError, match=f"images={folder} {reason}"):
            find_images(folder, tmp_path / "out")


def test_paths_that_print_alike_are_refused(tmp_path: Path) -> None:
    write_blank(tmp_path, "a\n.png", "a\\n.png")
    with pytest.raises(InputError, match="rename one"):
        find_images(tmp_path, tmp_path / "out")


def test_files_of_other_formats_and_label_masks_are_named(tmp_path: Path) -> None:
    write_blank(
        tmp_path, "a.png", "train/images/d.png", "train/masks/d.png", "masks/e.png",
        "voc/JPEGImages/f.jpg", "voc/SegmentationClass/f.png", "val/g.png", "valannot/g.png",
    )  # fmt: skip
    for name in ("b.HEIC", "c.heic", "notes"):
        (tmp_path / name).touch()
    found = find_images(tmp_path, tmp_path / "out")
    assert list(found.images) == ["a.png", "masks/e.png", "train/images/d.png", "val/g.png", "voc/JPEGImages/f.jpg"]
    assert found.ignored == (
        "2 .heic files", "1 other file", "the label masks in valannot, train/masks, voc/SegmentationClass",
    )  # fmt: skip


def test_a_folder_without_readable_images_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "b.heic").touch()
    with pytest.raises(InputError, match="1 .heic file"):
        find_images(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("images", "masks"), ("train", "trainannot")])
def test_a_folder_of_label_masks_is_not_predicted(images: str, labels: str, tmp_path: Path) -> None:
    for folder in (images, labels):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    with pytest.raises(InputError, match=f"images=.*{labels} holds the label masks"):
        find_images(tmp_path / labels, tmp_path / "out")
    assert list(find_images(tmp_path / images, tmp_path / "out").images) == ["a.png"]
