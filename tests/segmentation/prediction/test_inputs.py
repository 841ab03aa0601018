from pathlib import Path

import pytest

from segmentation.errors import InputError
from segmentation.prediction.inputs import find_images
from segmentation.prediction.outputs import TABLE
from tests.conftest import write_blank


def test_earlier_predictions_are_skipped(tmp_path: Path) -> None:
    write_blank(tmp_path, "a.png", "old/masks/a.png", "old/legend.png", "old/b.png", "out/masks/a.png", "masks/c.png")
    (tmp_path / "old" / TABLE).write_text("")
    assert list(find_images(tmp_path, tmp_path / "out")) == ["a.png", "masks/c.png", "old/b.png"]


def test_a_single_image_is_found(tmp_path: Path) -> None:
    write_blank(tmp_path, "a\n.png")
    assert find_images(tmp_path / "a\n.png", tmp_path / "out") == {"a\\n.png": tmp_path / "a\n.png"}


def test_a_missing_or_empty_folder_is_reported(tmp_path: Path) -> None:
    for folder, reason in ((tmp_path / "missing", "does not exist"), (tmp_path, "has no image")):
        with pytest.raises(InputError, match=f"images={folder} {reason}"):
            find_images(folder, tmp_path / "out")


def test_paths_that_print_alike_are_refused(tmp_path: Path) -> None:
    write_blank(tmp_path, "a\n.png", "a\\n.png")
    with pytest.raises(InputError, match="rename one"):
        find_images(tmp_path, tmp_path / "out")
