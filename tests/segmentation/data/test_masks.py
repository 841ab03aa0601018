"""Masks are read by colour and by value."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import VOID, Classes
from segmentation.data.masks import read_indices
from segmentation.errors import InputError

LABELS = Classes.named("ground", "car", "tree")
COLORS = {0x000000: 0, 0x00008E: 1, 0x6B8E23: 2, 0xE0E0C0: VOID}
INDICES = np.random.default_rng(0).choice(np.array([0, 1, 2, VOID], np.uint8), (20, 30))
TABLE = np.zeros((256, 3), np.uint8)
TABLE[[0, 1, 2, VOID]] = [(0, 0, 0), (0, 0, 0x8E), (0x6B, 0x8E, 0x23), (0xE0, 0xE0, 0xC0)]
FILE = Path("train/masks/a.png")


def read(image: Image.Image, kind: str = "PNG", values: dict[int, int] | None = None, **options: object) -> np.ndarray:
    file = BytesIO()
    image.save(file, kind, **options)
    return read_indices(file.getvalue(), FILE, values or {}, COLORS, LABELS)


def rgb() -> Image.Image:
    return Image.fromarray(TABLE[INDICES])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_rgb_rgba_and_palette_masks_are_read_by_colour(kind: str) -> None:
    np.testing.assert_array_equal(read(rgb(), kind), INDICES)
    if kind != "BMP":
        np.testing.assert_array_equal(read(rgb().convert("RGBA"), kind), INDICES)
    palette = rgb().quantize(8, dither=Image.Dither.NONE)
    assert palette.mode == "P"
    np.testing.assert_array_equal(read(palette, kind), INDICES)


def test_a_grey_mask_is_read_by_the_colours_it_shows_unless_a_class_has_the_value() -> None:
    grey = Image.fromarray(np.array([[0, 1, 7]], np.uint8))
    np.testing.assert_array_equal(read(grey, values={7: 2, 1: 1}), [[0, 1, 2]])
    colors = {0x000000: 0, 0xFFFFFF: 1}
    for image in (Image.fromarray(np.array([[0, 255]], np.uint8)), Image.fromarray(np.array([[False, True]]))):
        file = BytesIO()
        image.save(file, "PNG")
        np.testing.assert_array_equal(read_indices(file.getvalue(), FILE, {}, colors, LABELS), [[0, 1]])


def test_the_orientation_is_applied_to_colour_masks() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    np.testing.assert_array_equal(read(rgb(), exif=exif), np.rot90(INDICES, 2))


def test_a_colour_of_no_class_is_an_error_with_file_colour_count_and_the_nearest_class() -> None:
    pixels = TABLE[INDICES]
    pixels[0, :5] = (0, 0, 200)
    with pytest.raises(InputError) as refusal:
        read(Image.fromarray(pixels))
    for part in (str(FILE), "1 colour of", "#0000c8 (5 pixels", "'car' with #00008e"):
        assert part in str(refusal.value)
    assert "JPEG" not in str(refusal.value)


def test_a_mask_that_was_a_jpeg_is_recognised() -> None:
    blocks = Image.fromarray(np.kron(TABLE[INDICES], np.ones((8, 8, 1), np.uint8)))
    file = BytesIO()
    blocks.save(file, "JPEG", quality=90)
    with pytest.raises(InputError, match=r"train/masks/a\.png .*saved as a JPEG .*PNG"):
        read(Image.open(file))
    with pytest.raises(InputError, match=r"a\.png is a JPEG"):
        read(blocks, "JPEG")


def test_what_has_no_certain_colour_is_refused() -> None:
    transparent = np.dstack([TABLE[INDICES], np.full(INDICES.shape, 255, np.uint8)])
    transparent[0, :3, 3] = 0
    with pytest.raises(InputError, match="3 transparent pixels"):
        read(Image.fromarray(transparent))
    with pytest.raises(InputError, match="values up to 300, which have no colour"):
        read(Image.fromarray(np.full((2, 2), 300, np.uint16)))


def test_255_classes_by_colour(tmp_path: Path) -> None:
    """No value of a byte is left to mark unknown colours."""
    names = Classes.named(*(f"c{index}" for index in range(255)))
    file = BytesIO()
    Image.fromarray(np.array([[[0, 0, 254], [0, 0, 0]]], np.uint8)).save(file, "PNG")
    found = read_indices(file.getvalue(), FILE, {}, {index: index for index in range(255)}, names)
    np.testing.assert_array_equal(found, [[254, 0]])
