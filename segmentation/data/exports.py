"""Recognises the exports of annotation tools and published data sets by their files, for error messages."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from segmentation.io.folders import is_skipped

MAX_ENTRIES = 1000
"""Entries of a folder that are looked at."""


class Export(NamedTuple):
    """What a folder looks like, and the fields that read it."""

    tool: str
    fields: str
    """Empty if no data set reads it."""
    instead: str = ""
    """What to export instead."""


AS_COCO = "export the annotations as COCO JSON with polygons or masks, and use dataset=coco"


def export_hint(data_dir: str) -> str:
    """Return a sentence that names the tool or data set whose files a folder holds, and what to use; may be empty.

    If the folder itself is not recognised, its sub-folders are looked at.
    """
    root = Path(data_dir).absolute()
    try:
        for folder in (root, *(path for path in _entries(root) if path.is_dir())):
            export = recognised(folder)
            if export is not None:
                use = f"use {export.fields}" if export.fields else export.instead
                where = "data_dir" if folder == root else str(folder)
                if export.fields and folder != root and "data_dir" not in export.fields:
                    use += f" data_dir={folder}"
                return f"{where} looks like {export.tool}: {use}"
    except OSError:
        return ""
    return ""


def recognised(folder: Path) -> Export | None:
    """Return what a folder looks like, or None."""
    names = {path.name for path in _entries(folder)}
    inner = {f"{path.name}/{each.name}" for path in _entries(folder) if path.is_dir() for each in _entries(path)}

    def ends(name: str) -> bool:
        return any(each.endswith(f"/{name}") for each in inner)

    if ends("_annotations.coco.json"):
        return Export("Roboflow's COCO export", "dataset=coco")
    if ends("_classes.csv"):
        return Export("Roboflow's export of segmentation masks", "dataset=folder mask_suffix=_mask")
    if "data.yaml" in names and (ends("labels") or "labels" in names):
        return Export("a YOLO export, as of Roboflow or Ultralytics", "", f"labels of YOLO are not read; {AS_COCO}")
    if {"leftImg8bit", "gtFine"} & names:
        return Export("Cityscapes", "dataset=cityscapes")
    if "ADEChallengeData2016" in names or "objectInfo150.txt" in names or "annotations/training" in inner:
        return Export("ADE20K", "dataset=ade20k")
    if "SegmentationClass" in names and "labelmap.txt" in names:
        return Export("CVAT's export of segmentation masks", "dataset=folder")
    if "annotations.xml" in names:
        return Export("CVAT's own XML", "", "export as `Segmentation mask 1.1` instead, and use dataset=folder")
    if "VOCdevkit" in names:
        years = sorted(each.removeprefix("VOCdevkit/VOC") for each in inner if each.startswith("VOCdevkit/VOC"))
        return Export("Pascal VOC", f"dataset=voc{years[-1] if years else '2012'}")
    if {"JPEGImages", "SegmentationClass", "ImageSets"} <= names:
        if folder.parent.name == "VOCdevkit":
            return Export("Pascal VOC", f"dataset={folder.name.lower()} data_dir={folder.parent.parent}")
        return Export("an export in the layout of Pascal VOC", "dataset=folder, with classes.txt or labelmap.txt")
    if any(each.startswith("annotations/") and each.endswith(".json") for each in inner):
        return Export("a COCO data set", "dataset=coco")
    if {"train", "trainannot"} <= names:
        return Export("CamVid", "dataset=camvid")
    if "meta.json" in names and ends("ann"):
        return Export("Supervisely's project format", "", AS_COCO)
    if any(name.startswith("via_") and name.endswith(".json") for name in names):
        return Export("the VGG Image Annotator's own format", "", AS_COCO)
    return _of_json(folder)


def _of_json(folder: Path) -> Export | None:
    """What the first JSON file in a folder or its sub-folders belongs to."""
    for file in islice((file for pattern in ("*.json", "*/*.json") for file in folder.glob(pattern)), 1):
        with file.open("rb") as stream:
            start = stream.read(2**16)
        if b'"shapes"' in start and (b'"imagePath"' in start or b'"shape_type"' in start):
            if file.parent == folder:
                return Export(
                    "a folder of labelme files", f"dataset=labelme train_split={folder.name} data_dir={folder.parent}"
                )
            split = "" if (folder / "train").is_dir() else f" train_split={file.parent.name}"
            return Export("labelme files", f"dataset=labelme{split}")
        if b'"categories"' in start or (b'"images"' in start and b'"file_name"' in start):
            return Export("a COCO annotation file", f"dataset=coco train_split={file.stem}")
    return None


def _entries(folder: Path) -> Iterator[Path]:
    return (path for path in islice(folder.iterdir(), MAX_ENTRIES) if not is_skipped(path.name))
