"""Writes a few real VOC images in the formats that other tools export."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from PIL import Image
from pycocotools import mask as coco_mask

from segmentation.data.voc import CLASSES
from tests.conftest import PROJECT

VOC = PROJECT.parent / "shared" / "data" / "voc"
NAMES = {"train": 4, "val": 2}
"""Images of each split."""
VOID = 255
VOID_COLOR = (224, 224, 192)
"""Of VOC's palette."""


def pairs() -> Iterator[tuple[str, str, Path, np.ndarray]]:
    """Split, name, image file and class indices of each image."""
    folder = VOC / "VOCdevkit/VOC2007"
    for split, count in NAMES.items():
        for name in (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()[:count]:
            mask = np.asarray(Image.open(folder / f"SegmentationClass/{name}.png"))
            yield split, name, folder / f"JPEGImages/{name}.jpg", mask


def copied(image: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, target)


def saved(pixels: np.ndarray, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(target)


def write_voc(root: Path) -> dict[str, str]:
    folder = root / "VOCdevkit/VOC2007"
    names: dict[str, list[str]] = {split: [] for split in NAMES}
    for split, name, image, _ in pairs():
        copied(image, folder / f"JPEGImages/{name}.jpg")
        copied(VOC / f"VOCdevkit/VOC2007/SegmentationClass/{name}.png", folder / f"SegmentationClass/{name}.png")
        names[split].append(name)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for split, of_split in names.items():
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(of_split))
    return {"dataset": "voc2007"}


def write_indices(root: Path) -> dict[str, str]:
    for split, name, image, mask in pairs():
        copied(image, root / f"{split}/images/{name}.jpg")
        saved(mask, root / f"{split}/masks/{name}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES.names))
    return {"dataset": "folder"}


def write_colors(root: Path) -> dict[str, str]:
    """CVAT's layout, with masks in RGB."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(CLASSES)], table[VOID] = CLASSES.palette, VOID_COLOR
    names: dict[str, list[str]] = {split: [] for split in NAMES}
    for split, name, image, mask in pairs():
        copied(image, root / f"JPEGImages/{name}.jpg")
        saved(table[mask], root / f"SegmentationClass/{name}.png")
        names[split].append(name)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, of_split in names.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(of_split))
    lines = [f"{name}:{','.join(map(str, rgb))}::" for name, rgb in zip(CLASSES.names, CLASSES.palette, strict=True)]
    lines.append(f"ignored:{','.join(map(str, VOID_COLOR))}::")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    return {"dataset": "folder"}


def write_coco(root: Path, polygons: bool = False) -> dict[str, str]:
    """COCO's layout, with polygons, or with run-length encodings, in turns compressed by pycocotools and as lists."""
    categories = [{"id": 10 * index, "name": name} for index, name in enumerate(CLASSES.names) if index or polygons]
    content: dict[str, dict[str, list[object]]] = {
        split: {"images": [], "annotations": [], "categories": list(categories)} for split in NAMES
    }
    for number, (split, name, image, mask) in enumerate(pairs()):
        copied(image, root / f"{split}2017/{name}.jpg")
        height, width = mask.shape
        content[split]["images"].append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
        regions: list[tuple[int, object]] = [
            (value, run_lengths(mask == value, value % 2 == 0)) for value in np.unique(mask).tolist() if value
        ]
        if polygons:  # pixel (0, 0) covers 0 to 1, while the outlines count from its centre
            regions = [(value, [(line + 0.5).ravel().tolist()]) for value, line in parts(mask)]
        content[split]["annotations"] += [
            {"id": at, "image_id": number, "iscrowd": int(value == VOID), "segmentation": region,
             "category_id": 10 if value == VOID else 10 * value}
            for at, (value, region) in enumerate(regions)
        ]  # fmt: skip
    (root / "annotations").mkdir()
    for split, of_split in content.items():
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(of_split))
    return {"dataset": "coco"}


def run_lengths(region: np.ndarray, compressed: bool) -> dict[str, object]:
    """A region as COCO's run-length encoding."""
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = region.T.reshape(-1)
    ends = np.flatnonzero(np.concatenate([flat[1:] != flat[:-1], [True]])) + 1
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": list(region.shape), "counts": [0, *counts] if flat[0] else counts}


def outlines(region: np.ndarray) -> list[np.ndarray]:
    """Outer outlines `(N, 2)` of the parts of a region, half a pixel outside the centres of its pixels."""
    lines = contour_generator(z=np.pad(region, 1).astype(float)).lines(0.5)
    return [line[:-1] - 1 for line in lines if signed_area(line) > 0]


def parts(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Values and outlines of all connected parts, large ones first, so that a part inside another is drawn after it."""
    found = [(value, line) for value in np.unique(mask).tolist() for line in outlines(mask == value) if len(line) > 2]
    return sorted(found, key=lambda part: -signed_area(np.concatenate([part[1], part[1][:1]])))


def signed_area(line: np.ndarray) -> float:
    x, y = line[:, 0], line[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2


def write_labelme(root: Path) -> dict[str, str]:
    labels = dict(enumerate(CLASSES.names)) | {VOID: "__ignore__"}
    for split, name, image, mask in pairs():
        copied(image, root / f"{split}/{name}.jpg")
        shapes = [
            {"label": labels[value], "points": line.tolist(), "shape_type": "polygon"} for value, line in parts(mask)
        ]
        content = {"imagePath": f"{name}.jpg", "imageHeight": len(mask), "imageWidth": mask.shape[1], "shapes": shapes}
        (root / f"{split}/{name}.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("\n".join(CLASSES.names))
    return {"dataset": "labelme"}
