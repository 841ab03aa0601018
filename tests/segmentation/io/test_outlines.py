"""Filled outlines, beside pycocotools, Pillow and the definition by distance."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from segmentation.errors import InputError
from segmentation.io.outlines import filled_polygons, filled_runs, filled_shape

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.97, 1.0])
def test_run_lengths_are_what_pycocotools_encodes(fraction: float) -> None:
    region = RANDOM.random((47, 131)) < fraction
    if fraction == 0.3:
        region[:, 3:90] = True  # long runs, which take several letters
    encoded = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    found = filled_runs({"size": [47, 131], "counts": encoded["counts"].decode()}, 47, 131, "x")
    np.testing.assert_array_equal(found, region)


def test_run_lengths_go_down_the_columns_and_begin_with_zeros() -> None:
    found = filled_runs({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3, "x")
    np.testing.assert_array_equal(found, [[False, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "adds up to 3 pixels, the image has 6"),
        ({"size": [2, 3], "counts": [10**18, 1]}, "adds up to"),
        ({"size": [2, 3], "counts": [-1, 7]}, "whole numbers"),
        ({"size": [2, 3], "counts": [1.0, 5]}, "whole numbers"),
        ({"size": [2, 3], "counts": None}, "whole numbers"),
        ({"size": [3, 2], "counts": [6]}, r"size is \[3, 2\]"),
        ({"counts": [6]}, "size is None"),
        ({"size": [2, 3], "counts": ""}, "adds up to 0"),
        ({"size": [2, 3], "counts": "é"}, "not a compressed"),
        ({"size": [2, 3], "counts": "o" * 40}, "not a compressed"),
        ({"size": [2, 3], "counts": "P"}, "ends within a number"),
        ({"size": [2, 3], "counts": "0" * 100}, "not a compressed"),
    ],
)
def test_wrong_run_lengths_are_refused(encoded: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{message}"):
        filled_runs(encoded, 2, 3, "here")


def test_polygons_of_whole_pixels_fill_these_pixels() -> None:
    found = filled_polygons([[1, 1, 4, 1, 4, 3, 1, 3], [6, 0, 8, 0, 8, 1, 6, 1]], 5, 9, "x")
    expected = np.zeros((5, 9), bool)
    expected[1:3, 1:4] = expected[0, 6:8] = True
    np.testing.assert_array_equal(found, expected)


def test_shapes_are_filled_as_labelme_fills_them() -> None:
    image = Image.new("L", (40, 30))
    ImageDraw.Draw(image).polygon([(2.4, 3.6), (30.0, 5.2), (11.7, 27.9)], fill=1, outline=1)
    found = filled_shape("polygon", [[2.4, 3.6], [30.0, 5.2], [11.7, 27.9]], 30, 40, "x")
    np.testing.assert_array_equal(found, np.asarray(image) == 1)
    y, x = np.mgrid[:30, :40]
    for corners in ([[5, 6], [20, 11]], [[20, 11], [5, 6]], [[5, 11], [20, 6]]):
        box = filled_shape("rectangle", corners, 30, 40, "x")
        np.testing.assert_array_equal(box, (x >= 5) & (x <= 20) & (y >= 6) & (y <= 11))
    circle = filled_shape("circle", [[20, 15], [20, 5]], 30, 40, "x")
    distance = np.hypot(x - 20, y - 15)
    assert circle[distance < 9.5].all()
    assert not circle[distance > 11].any()


@pytest.mark.parametrize(
    ("kind", "points", "message"),
    [
        ("line", [[0, 0], [1, 1]], "shape_type 'line'"), ("mask", [[0, 0], [1, 1]], "shape_type 'mask'"),
        ([], [[0, 0]], "shape_type"), ("polygon", [[0, 0], [1, 1]], r"2 points"),
        ("circle", [[0, 0]], r"1 point"), ("rectangle", None, "points"), ("polygon", [[0, 0, 1]] * 3, "points"),
        ("polygon", [["0", 0]] * 3, "x is '0'"), ("polygon", [[0, None]] * 3, "y is None"),
        ("polygon", [[0, True]] * 3, "y is True"),
        ("polygon", [[0, float("nan")]] * 3, "y=nan"), ("polygon", [[float("inf"), 0]] * 3, "x=inf"),
        ("polygon", [[0, 0], [99, 0], [0, 9]], "x=99 is outside the image of 40 x 30"),
        ("polygon", [[0, 0], [9, 0], [0, -9]], "y=-9 is outside"), ("polygon", [[10**400, 0]] * 3, "is outside"),
        ("polygon", [[0, 0]] * 200_000, "200,000 points"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused(kind: object, points: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{message}"):
        filled_shape(kind, points, 30, 40, "here")


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([], "list of polygons"), ({}, "list of polygons"), ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points"), ([7], "three points"), ([["a"] * 6], "x is 'a'"),
        ([[1e9] * 6], "outside"), ([[float("nan")] * 6], "outside"),
    ],
)  # fmt: skip
def test_wrong_polygons_are_refused(polygons: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^here.*{message}"):
        filled_polygons(polygons, 30, 40, "here")


def test_a_point_a_little_outside_is_cut_off() -> None:
    found = filled_polygons([[-2, -2, 5, -2, 5, 5, -2, 5]], 30, 40, "x")
    assert found.sum() == 25
