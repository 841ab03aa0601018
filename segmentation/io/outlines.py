"""Fills annotated outlines: polygons, rectangles, circles and run-length encoded regions, which may be hostile.

Polygons of COCO files are filled by pycocotools, shapes of labelme files as labelme fills them, with Pillow.
"""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segmentation.errors import InputError, counted

OUTSIDE = 0.1
"""Largest distance between a point and the image, as a fraction of the image's side. Points outside are common, and
cut off; points far outside belong to an image of another size."""
MAX_POINTS = 100_000
"""Points of one outline."""


def filled_polygons(polygons: Any, height: int, width: int, where: str) -> np.ndarray:
    """Return the union of polygons as pycocotools fills them, bool `(height, width)`.

    Args:
        polygons: content of a COCO file: a list of lists `[x, y, x, y, ...]`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        where: what error messages call the polygons.

    Raises:
        InputError: a polygon is not a list of finite numbers, has fewer than three points, or lies outside the image.
    """
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise InputError("dataset=coco needs the package pycocotools: pip install pycocotools") from error
    if not isinstance(polygons, list) or not polygons:
        raise InputError(f"{where} must be a list of polygons")
    if all(
        type(each) in (int, float) for each in polygons
    ):  # the VGG Image Annotator writes one polygon without a list
        polygons = [polygons]
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"{where} needs at least three points [x, y, x, y, x, y] for each polygon")
        _checked(list(zip(polygon[::2], polygon[1::2], strict=True)), height, width, where)
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return filled_runs({"size": [height, width], "counts": encoded["counts"].decode()}, height, width, where)


def filled_shape(kind: Any, points: Any, height: int, width: int, where: str) -> np.ndarray:
    """Return a polygon, rectangle or circle as labelme fills it, outline included, bool `(height, width)`.

    Args:
        kind: `shape_type` of a labelme file.
        points: `[[x, y], ...]`; of a rectangle two opposite corners, of a circle its centre and a point on it.
        height: of the image, in pixels.
        width: of the image, in pixels.
        where: what error messages call the shape.

    Raises:
        InputError: the kind has no area or is not known, or the points are wrong or outside the image.
    """
    kind = "polygon" if kind is None else kind  # as in files of labelme 3
    if kind not in ("polygon", "rectangle", "circle"):
        raise InputError(f"{where}: shape_type {kind!r:.80} is not filled; draw a polygon, rectangle or circle")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise InputError(f"{where}: points must be a list of [x, y]")
    if (len(points) < 3) if kind == "polygon" else (len(points) != 2):
        raise InputError(f"{where}: a {kind} cannot have {counted(len(points), 'point')}")
    corners = _checked([(x, y) for x, y in points], height, width, where)
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    if kind == "polygon":
        draw.polygon(corners, fill=1, outline=1)
    elif kind == "rectangle":
        (left, top), (right, bottom) = corners
        draw.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), fill=1, outline=1)
    else:
        (x, y), edge = corners
        radius = math.dist((x, y), edge)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return np.asarray(image)


def filled_runs(encoded: Any, height: int, width: int, where: str) -> np.ndarray:
    """Return a run-length encoded region of a COCO file, bool `(height, width)`.

    Args:
        encoded: an object with `size` `[height, width]` and `counts`: lengths of runs of 0 and 1 in turns, down the
            columns, as a list or as COCO's compressed text.
        height: of the image, in pixels.
        width: of the image, in pixels.
        where: what error messages call the region.

    Raises:
        InputError: the size is another one than the image's, or the runs do not add up to it.
    """
    if encoded.get("size") != [height, width]:
        raise InputError(f"{where}.size is {encoded.get('size')!r:.80}, the image is [{height}, {width}]")
    counts = encoded.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts, height * width, where)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise InputError(f"{where}.counts must be text or a list of whole numbers")
    if sum(counts) != height * width:
        raise InputError(f"{where}.counts adds up to {sum(counts)} pixels, the image has {height * width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _decompressed(text: str, pixels: int, where: str) -> list[int]:
    """Lengths of runs from COCO's compressed text (`rleFrString` of pycocotools).

    Each letter holds 5 bits and a flag that more follow; from the fourth number on, each is the difference to the
    number two before. Decoded here, because pycocotools returns uninitialised memory for too short texts.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60 or len(counts) > pixels:
            raise InputError(f"{where}.counts is not a compressed run-length encoding")
        number |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    if shift:
        raise InputError(f"{where}.counts ends within a number")
    return counts


def _checked(points: list[tuple[Any, Any]], height: int, width: int, where: str) -> list[tuple[float, float]]:
    """The points as numbers. Raises an `InputError` for other values and for points far outside the image."""
    if len(points) > MAX_POINTS:
        raise InputError(f"{where} has {len(points):,} points, at most {MAX_POINTS:,} are possible")
    for x, y in points:
        for name, value, side in (("x", x, width), ("y", y, height)):
            if type(value) not in (int, float):
                raise InputError(f"{where}: {name} is {value!r:.80}, not a number")
            if not -OUTSIDE * side <= value <= (1 + OUTSIDE) * side:
                raise InputError(
                    f"{where}: {name}={value!r:.40} is outside the image of {width} x {height} pixels; was the image "
                    f"resized after it was annotated?"
                )
    return [(float(x), float(y)) for x, y in points]
