"""Folders of labelme's files: classes, shapes, images without a file, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data import load_split, open_split
from segmentation.errors import InputError
from tests.segmentation.data.annotated import SIZE, labelme, write_image, write_json


def config(root: Path, **more: Any) -> DataConfig:
    return DataConfig(dataset="labelme", data_dir=str(root), resize=None, crop=None, **more)


def written(root: Path, content: object, name: str = "train/a") -> Path:
    write_image(root / f"{name}.png")
    write_json(root / f"{name}.json", content)
    return root


def test_later_shapes_cover_earlier_ones_and_ignored_pixels_are_void(tmp_path: Path) -> None:
    shapes = [
        {}, {"label": "ant", "points": [[3, 3], [8, 3], [8, 8], [3, 8]], "shape_type": "polygon"},
        {"label": "__ignore__", "points": [[12, 0], [19, 15]]},
        {"label": "_background_", "points": [[8, 8], [8, 8]]},
    ]  # fmt: skip
    source = open_split(config(written(tmp_path, labelme(*shapes))), "train")
    assert source.labels.names == ("background", "ant", "cat")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[1:5, 1:5], expected[3:9, 3:9], expected[:, 12:], expected[8, 8] = 2, 1, VOID, 0
    np.testing.assert_array_equal(source.read(0).mask, expected)


def test_the_classes_are_the_labels_of_all_splits(tmp_path: Path) -> None:
    written(tmp_path, labelme({"label": "zebra"}))
    written(tmp_path, labelme({"label": "ant"}), "val/sub/b")
    for split, name in (("train", "a"), ("val", "sub/b")):
        source = open_split(config(tmp_path), split)
        assert source.labels.names == ("background", "ant", "zebra")
        assert source.names == (name,)


def test_classes_txt_states_the_order_and_which_labels_exist(tmp_path: Path) -> None:
    written(tmp_path, labelme({"label": "zebra"}, {"label": "ant"}))
    (tmp_path / "classes.txt").write_text("__ignore__\n_background_\nzebra\nant\n")
    assert open_split(config(tmp_path), "train").labels.names == ("background", "zebra", "ant")
    (tmp_path / "classes.txt").write_text("zebra\ncow\n")
    with pytest.raises(InputError, match=r"a\.json, shapes\[1\]: label 'ant' is not in .*classes\.txt"):
        open_split(config(tmp_path), "train")


def test_an_image_without_a_file_is_an_error_or_background(tmp_path: Path) -> None:
    written(tmp_path, labelme({}))
    write_image(tmp_path / "train/b.png")
    with pytest.raises(InputError, match=r"no labelme file beside 1 image: .*b\.png.*empty=background"):
        open_split(config(tmp_path), "train")
    source = open_split(config(tmp_path, empty="background"), "train")
    assert source.names == ("a", "b")
    assert not source.read(1).mask.any()
    assert load_split(config(tmp_path, empty="background"), "train").pixels_by_value()[1] == 16


def without(field: str) -> dict[str, Any]:
    content = labelme({})
    del content["shapes"][0][field]
    return content


WRONG: dict[str, tuple[object, str]] = {
    "no object": ([], "is not a labelme file"),
    "no shapes": ({}, "is not a labelme file"),
    "no label": (without("label"), r"shapes\[0\] has no label"),
    "no points": (without("points"), r"shapes\[0\] \(cat\): points"),
    "a line": (labelme({"shape_type": "line"}), r"shapes\[0\] \(cat\): shape_type 'line' is not filled"),
    "outside": (labelme({"points": [[0, 0], [90, 9]]}), r"shapes\[0\] \(cat\): x=90 is outside"),
    "other size": (labelme({}, imageWidth=30), r"a\.png has 20 x 16 pixels, but .*a\.json states 30 x 16"),
    "no size": (labelme({}, imageWidth="20"), "imageWidth and imageHeight are '20' and 16"),
    "half a size": (labelme({}, imageWidth=None), "imageWidth and imageHeight are None and 16"),
    "hostile label": (labelme({"label": "../x"}), "class name '../x'"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_each_mistake_is_reported_with_file_and_field(content: object, message: str, tmp_path: Path) -> None:
    written(tmp_path, labelme({"label": "dog"}), "train/good")
    with pytest.raises(InputError, match=message) as refusal:
        load_split(config(written(tmp_path, content)), "train")
    assert "a.json" in str(refusal.value) or "labels of" in str(refusal.value)


def test_a_file_without_its_image_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, labelme({}))
    write_json(tmp_path / "train/b.json", labelme({}))
    with pytest.raises(InputError, match=r"no image beside 1 labelme file: .*b\.json"):
        open_split(config(tmp_path), "train")
