"""Writes small trees with the annotation files of COCO and labelme."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (20, 16)
"""Width and height of the images."""


def write_image(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def square(left: int, top: int, side: int = 4) -> list[list[int]]:
    """A polygon of COCO that covers whole pixels."""
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(names: list[str], *annotations: dict[str, Any]) -> dict[str, Any]:
    """Content of a COCO file with categories 3 (dog) and 1 (cat)."""
    images = [
        {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for number, name in enumerate(names)
    ]
    default = {"image_id": 0, "category_id": 1, "iscrowd": 0, "segmentation": square(1, 1)}
    return {
        "images": images, "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [{"id": number} | default | each for number, each in enumerate(annotations)],
    }  # fmt: skip


def write_json(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def labelme(*shapes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Content of a labelme file."""
    default = {"label": "cat", "points": [[1, 1], [4, 4]], "shape_type": "rectangle"}
    return {
        "version": "5.5.0", "imagePath": "a.png", "imageWidth": SIZE[0], "imageHeight": SIZE[1],
        "shapes": [default | each for each in shapes],
    } | fields  # fmt: skip
