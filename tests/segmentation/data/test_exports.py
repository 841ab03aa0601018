"""Folders that look like the export of a tool are recognised, whatever `dataset` is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.data.exports import export_hint
from segmentation.errors import InputError
from tests.conftest import write_blank
from tests.segmentation.data.annotated import coco, labelme, write_json


def files(*names: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("{}")

    return write


EXPORTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "roboflow": (files("train/_annotations.coco.json", "train/a.jpg"), "Roboflow", "dataset=coco"),
    "roboflow masks": (files("train/_classes.csv", "train/a_mask.png"), "Roboflow", "dataset=folder mask_suffix=_mask"),
    "yolo": (files("data.yaml", "train/labels/a.txt"), "YOLO", "dataset=coco"),
    "cvat": (files("labelmap.txt", "SegmentationClass/a.png"), "CVAT", "dataset=folder"),
    "cvat xml": (files("annotations.xml"), "CVAT", "dataset=folder"),
    "coco": (files("annotations/instances_train2017.json"), "COCO", "dataset=coco"),
    "label studio": (lambda root: write_json(root / "result.json", coco([])), "COCO", "coco train_split=result"),
    "labelme alone": (lambda root: write_json(root / "a.json", labelme({})), "labelme", "dataset=labelme train_split="),
    "labelme": (lambda root: write_json(root / "train/a.json", labelme({})), "labelme", "dataset=labelme"),
    "cityscapes": (files("leftImg8bit/train/a/a.png", "gtFine/train/a/a.png"), "Cityscapes", "dataset=cityscapes"),
    "ade20k": (files("ADEChallengeData2016/objectInfo150.txt"), "ADE20K", "dataset=ade20k"),
    "voc": (files("VOCdevkit/VOC2012/JPEGImages/a.jpg"), "Pascal VOC", "dataset=voc2012"),
    "supervisely": (files("meta.json", "ds0/ann/a.json"), "Supervisely", "dataset=coco"),
    "vgg": (files("via_region_data.json"), "VGG", "dataset=coco"),
    "camvid": (files("train/a.png", "trainannot/a.png"), "CamVid", "dataset=camvid"),
}  # fmt: skip


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_recognised_by_name_with_the_fields_to_use(name: str, nested: bool, tmp_path: Path) -> None:
    write, tool, fields = EXPORTS[name]
    root = tmp_path / "unpacked" if nested else tmp_path
    root.mkdir(exist_ok=True)
    write(root)
    hint = export_hint(str(tmp_path))
    assert tool in hint
    assert fields in hint


@pytest.mark.parametrize("dataset", ["voc2007", "folder", "camvid", "labelme", "cityscapes", "ade20k"])
def test_the_error_of_each_data_set_names_the_export(dataset: str, tmp_path: Path) -> None:
    files("train/_annotations.coco.json")(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"looks like Roboflow's COCO export: use dataset=coco"):
        open_split(DataConfig(dataset=dataset, data_dir=str(tmp_path)), "train")


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    write_blank(tmp_path, "photos/a.png", "masks/a.png")
    assert export_hint(str(tmp_path)) == ""
    assert export_hint(str(tmp_path / "missing")) == ""
