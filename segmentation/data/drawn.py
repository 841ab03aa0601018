"""Images whose masks are drawn from outlines in annotation files, such as COCO's and labelme's."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentation.classes import Classes
from segmentation.data.pairs import content_of
from segmentation.data.source import LabelledImage
from segmentation.errors import InputError
from segmentation.io.decoding import pixel_count, read_image
from segmentation.io.outlines import filled_polygons, filled_runs, filled_shape

DRAWING_VERSION = 1
"""Part of the data's identity. Raise it when outlines are filled differently, so that cached splits are built again."""


class Outline(NamedTuple):
    """One annotation of an image, as its file states it."""

    class_index: int
    """Class index, or void."""
    where: str
    """What error messages call it."""
    shape: Any
    """A list of polygons, a run-length encoding, or a shape of labelme."""


class Drawn(NamedTuple):
    """An image and its annotations."""

    file: Path
    size: tuple[int, int] | None
    """Width and height as the annotation file states them."""
    outlines: tuple[Outline, ...]
    annotation: Path
    """File of the annotations."""


@dataclass(frozen=True)
class DrawnImages:
    """A `Source` of image files and outlines. Later outlines cover earlier ones; other pixels are background."""

    labels: Classes
    location: str
    files: Mapping[str, Drawn]
    faults: tuple[str, ...] = ()
    """What is wrong with the annotation files."""
    channels: int = 3
    """Number of channels that every image must have."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    def identity(self) -> str:
        annotations = {file: file.stat() for file in {each.annotation for each in self.files.values()}}
        stamps = []
        for name, each in self.files.items():
            of_image, of_annotation = each.file.stat(), annotations[each.annotation]
            stamps.append((name, *((stat.st_size, stat.st_mtime_ns) for stat in (of_image, of_annotation))))
        return repr((DRAWING_VERSION, self.labels.names, stamps))

    def pixels(self, index: int) -> int:
        return pixel_count(self.files[self.names[index]].file)

    def read(self, index: int) -> LabelledImage:
        file, size, outlines, annotation = self.files[self.names[index]]
        content = content_of(file)
        image = read_image(io.BytesIO(content), file, self.channels)
        if size not in (None, image.size):
            raise InputError(
                f"{file} has {image.width} x {image.height} pixels, but {annotation} states {size[0]} x {size[1]}; "
                f"use the images that were annotated"
            )
        mask = np.full((image.height, image.width), self.labels.background, np.uint8)
        for outline in outlines:
            mask[_filled(outline, image.height, image.width)] = outline.class_index
        image_digest = hashlib.sha256(content).digest()
        stated = json.dumps([(each.class_index, each.shape) for each in outlines], sort_keys=True)
        digest = hashlib.sha256(image_digest + hashlib.sha256(stated.encode()).digest())
        return LabelledImage(image, mask, digest.digest(), image_digest)


def stated_size(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Return width and height of an image as an annotation file states them, or None if it states neither.

    Raises:
        InputError: they are not whole numbers above 0.
    """
    if width is None and height is None:
        return None
    if not all(type(side) is int and side > 0 for side in (width, height)):
        raise InputError(f"{where} are {width!r:.40} and {height!r:.40}; they must be whole numbers above 0")
    return width, height


def _filled(outline: Outline, height: int, width: int) -> np.ndarray:
    """The pixels of an outline, bool `(height, width)`."""
    shape = outline.shape
    if isinstance(shape, list):
        return filled_polygons(shape, height, width, outline.where)
    if "shape_type" in shape:
        return filled_shape(shape["shape_type"], shape.get("points"), height, width, outline.where)
    return filled_runs(shape, height, width, outline.where)
