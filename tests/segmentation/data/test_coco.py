"""COCO's annotation files: layouts, order, crowds, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data import load_split, open_split
from segmentation.data.coco import open_coco
from segmentation.errors import InputError
from tests.segmentation.data.annotated import SIZE, coco, square, write_image, write_json


def config(root: Path, **more: Any) -> DataConfig:
    return DataConfig(dataset="coco", data_dir=str(root), resize=None, crop=None, **more)


def written(root: Path, content: object, name: str = "a.png") -> Path:
    write_image(root / "images/train" / name)
    write_json(root / "annotations/instances_train.json", content)
    return root


def test_later_annotations_cover_earlier_ones_and_crowds_are_void(tmp_path: Path) -> None:
    crowd = {"size": [16, 20], "counts": [0, 16, 304]}
    content = coco(
        ["a.png"], {}, {"category_id": 3, "segmentation": square(3, 3)}, {"iscrowd": 1, "segmentation": crowd},
        {"segmentation": [*square(10, 10, 2), *square(14, 10, 2)]},
    )  # fmt: skip
    source = open_split(config(written(tmp_path, content)), "train")
    assert source.labels.names == ("background", "cat", "dog")
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[1:5, 1:5], expected[3:7, 3:7], expected[:, 0] = 1, 2, VOID
    expected[10:12, 10:12] = expected[10:12, 14:16] = 1
    np.testing.assert_array_equal(source.read(0).mask, expected)


def test_the_digest_changes_with_the_annotation_and_not_with_its_place_in_the_file(tmp_path: Path) -> None:
    digests = []
    for names, annotation in ((["a.png"], {}), (["a.png"], {"category_id": 3}), (["a.png"], {"area": 7})):
        source = open_split(config(written(tmp_path, coco(names, annotation))), "train")
        digests.append(source.read(0).digest)
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


LAYOUTS = {
    "downloaded": ("train2017/a.png", "annotations/instances_train2017.json"),
    "cvat": ("images/train/a.png", "annotations/instances_train.json"),
    "one folder": ("images/a.png", "annotations/train.json"),
    "roboflow": ("train/a.png", "train/_annotations.coco.json"),
    "beside": ("images/a.png", "train.json"),
}


@pytest.mark.parametrize(("image", "annotations"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_layouts(image: str, annotations: str, tmp_path: Path) -> None:
    write_image(tmp_path / image)
    write_json(tmp_path / annotations, coco(["a.png"], {}))
    write_json(tmp_path / "annotations/person_keypoints_train2017.json", {})
    source = open_split(config(tmp_path), "train")
    assert source.names == ("a",)
    assert np.count_nonzero(source.read(0).mask) == 16


def test_roboflow_s_valid_is_val_and_its_parent_category_is_no_class(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / split / "a.png")
        content = coco(["a.png"], {})
        content["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "pets"}
        ]  # fmt: skip
        write_json(tmp_path / split / "_annotations.coco.json", content)
    source = open_split(config(tmp_path), "val")
    assert source.labels.names == ("background", "cat")
    assert set(np.unique(source.read(0).mask)) == {0, 1}


def test_label_studio_s_single_file_and_its_categories_from_0(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.png")
    content = coco(["images/a.png"], {"category_id": 0})
    content["categories"] = [{"id": 0, "name": "cat"}]
    write_json(tmp_path / "result.json", content)
    source = open_split(config(tmp_path, train_split="result"), "result")
    assert source.labels.names == ("background", "cat")
    assert source.names == ("images/a",)
    with pytest.raises(InputError, match=r"has no split 'val' .*val_fraction=0\.2"):
        open_split(config(tmp_path, train_split="result"), "val")


def test_ids_as_text_and_a_polygon_without_a_list_as_the_vgg_image_annotator_writes_them(tmp_path: Path) -> None:
    content = coco(["a.png"], {"image_id": "0", "category_id": "3", "segmentation": square(1, 1)[0]})
    mask = open_split(config(written(tmp_path, content)), "train").read(0).mask
    np.testing.assert_array_equal(np.bincount(mask.ravel()), [20 * 16 - 16, 0, 16])


def change(key: str, number: int, **values: object) -> dict[str, Any]:
    content = coco(["a.png"], {})
    content[key][number] |= values
    return content


def without(key: str, field: str) -> dict[str, Any]:
    content = coco(["a.png"], {})
    del content[key][0][field]
    return content


SHORT = {"size": [16, 20], "counts": [7]}
HUGE = {"size": [10**9, 10**9], "counts": [10**18]}
WRONG: dict[str, tuple[object, str]] = {
    "no object": ([], "images, annotations, categories"),
    "no categories": ({"images": [], "annotations": []}, "categories must be a list"),
    "no object in a list": (coco(["a.png"]) | {"images": [1]}, r"images\[0\] is 1"),
    "traversal": (change("images", 0, file_name="../../secret.png"), "file_name '../../secret.png' leads"),
    "absolute": (change("images", 0, file_name="/etc/passwd"), r"images\[0\]: file_name '/etc/passwd' leads"),
    "windows": (change("images", 0, file_name="C:\\a.png"), r"images\[0\]: file_name .* leads"),
    "control": (change("images", 0, file_name="a\x1b.png"), r"images\[0\]: file_name"),
    "no name": (without("images", "file_name"), r"images\[0\]: file_name is None"),
    "no id": (without("images", "id"), r"images\[0\]: id is None"),
    "negative size": (change("images", 0, width=-1), r"images\[0\]: width and height are -1 and 16"),
    "other size": (change("images", 0, width=40), r"a\.png has 20 x 16 .*train\.json states 40 x 16"),
    "missing file": (change("images", 0, file_name="b.png"), r"names 1 image .*: b\.png"),
    "unknown image": (change("annotations", 0, image_id=9), r"annotations\[0\]: image_id 9"),
    "unhashable image": (change("annotations", 0, image_id=[]), r"annotations\[0\]: image_id \[\]"),
    "unknown category": (change("annotations", 0, category_id=9), r"annotations\[0\]: category_id 9"),
    "no segmentation": (without("annotations", "segmentation"), r"annotations\[0\] has no segmentation"),
    "empty segmentation": (change("annotations", 0, segmentation=[]), r"annotations\[0\] has no segmentation"),
    "crowd": (change("annotations", 0, iscrowd="no"), r"annotations\[0\]: iscrowd is 'no'"),
    "outside": (change("annotations", 0, segmentation=square(400, 3)), r"annotations\[0\].*a\.png.*x=400 is outside"),
    "wrong rle": (change("annotations", 0, segmentation=SHORT), r"annotations\[0\].*adds up to 7"),
    "huge rle": (change("annotations", 0, segmentation=HUGE), r"annotations\[0\].*size"),
    "same category": (change("categories", 1, id=3), r"categories\[1\]: id 3"),
    "same name": (change("categories", 1, name="dog"), "categories: class names must be unique; repeated: dog"),
    "no category name": (without("categories", "name"), r"categories\[0\]: name is None"),
    "no category id": (without("categories", "id"), r"categories\[0\]: id is None"),
    "hostile category": (change("categories", 0, name="../../x"), "class name '../../x'"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_each_mistake_is_reported_with_file_and_field(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        load_split(config(written(tmp_path, content)), "train")
    assert "instances_train.json" in str(refusal.value)


def test_faults_of_the_file_and_of_the_images_are_listed_together(tmp_path: Path) -> None:
    content = coco(["a.png", "b.png", "c.png"], {"image_id": 7}, {"segmentation": square(99, 0)}, {"category_id": 8})
    write_image(tmp_path / "images/train/b.png")
    (tmp_path / "images/train/b.png").write_bytes(b"hello")
    with pytest.raises(InputError) as refusal:
        open_split(config(written(tmp_path, content)), "train")
    message = str(refusal.value)
    assert message.startswith("5 faults")
    for part in ("image_id 7", "category_id 8", "c.png", "x=99", "b.png cannot be read"):
        assert part in message


def test_an_image_without_annotations_is_background(tmp_path: Path) -> None:
    source = open_coco(config(written(tmp_path, coco(["a.png"]))), "train")
    assert not source.read(0).mask.any()
