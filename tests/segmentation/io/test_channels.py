"""Images of other channels than three, and of 16 bits, against files written by tifffile or byte by byte."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segmentation.errors import InputError
from segmentation.io.channels import ChannelImage, as_array, display_note, displayed, encoded, resized, turn
from segmentation.io.decoding import read_image
from tests.segmentation.io.test_pixels import TURNS, png

RANDOM = np.random.default_rng(1)
DEEP = RANDOM.integers(0, 2**16, (6, 9, 5), dtype=np.uint16)
FLAT = (DEEP >> 8).astype(np.uint8)


def write_tiff(file: Path | BytesIO, pixels: np.ndarray, **options: Any) -> None:
    """Write pixels `(H, W, N)` as a TIFF of one page."""
    if pixels.shape[2] == 1:
        tifffile.imwrite(file, pixels[..., 0], **{"photometric": "minisblack"} | options)
    else:
        tifffile.imwrite(file, pixels, **{"photometric": "minisblack", "planarconfig": "contig"} | options)


def tiff(pixels: np.ndarray, **options: Any) -> BytesIO:
    file = BytesIO()
    write_tiff(file, pixels, **options)
    return BytesIO(file.getvalue())


def deep_png(colour: int, pixels: np.ndarray, extra: bytes = b"") -> BytesIO:
    rows = pixels.astype(">u2").reshape(len(pixels), -1).view(np.uint8)
    return BytesIO(png(16, colour, rows, extra))


def flat_png(colour: int, pixels: np.ndarray) -> BytesIO:
    return BytesIO(png(8, colour, pixels.reshape(len(pixels), -1)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pixels", [DEEP, FLAT], ids=["16", "8"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "lzw", "predictor": True}, {"compression": "zlib", "tile": (16, 16)}]
)
def test_tiffs_are_read_value_for_value(channels: int, pixels: np.ndarray, options: dict[str, Any]) -> None:
    expected = pixels[..., :channels].copy()
    if channels == 3 and pixels is FLAT:
        options = options | {"photometric": "rgb"}
    np.testing.assert_array_equal(as_array(read_image(tiff(expected, **options), "it", channels)), expected)
    if channels > 1:
        first = np.moveaxis(expected, -1, 0).copy()
        planes = tiff(first, **options | {"planarconfig": "separate"})
        np.testing.assert_array_equal(as_array(read_image(planes, "it", channels)), expected)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pngs_of_16_bits_are_read_value_for_value(colour: int, channels: int) -> None:
    expected = DEEP[..., :channels]
    found = read_image(deep_png(colour, expected), "it", channels, 16)
    np.testing.assert_array_equal(as_array(found), expected)
    assert as_array(found).dtype == np.uint16


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (6, 4)])
def test_pngs_of_8_bits_are_read_value_for_value(colour: int, channels: int) -> None:
    expected = FLAT[..., :channels]
    np.testing.assert_array_equal(as_array(read_image(flat_png(colour, expected), "it", channels, 8)), expected)


def test_transparency_is_a_channel_only_if_it_is_counted() -> None:
    files: list[tuple[Callable[[], BytesIO], np.ndarray]] = [
        (lambda: deep_png(6, DEEP[..., :4]), DEEP), (lambda: flat_png(6, FLAT[..., :4]), FLAT),
        (lambda: tiff(DEEP[..., :4], photometric="rgb"), DEEP), (lambda: tiff(FLAT[..., :4], photometric="rgb"), FLAT),
    ]  # fmt: skip
    for file, expected in files:
        for channels in (3, 4):
            found = read_image(file(), "it", channels)
            np.testing.assert_array_equal(as_array(found), expected[..., :channels])
        with pytest.raises(InputError, match=r"4 channels of .* bits, transparency included; .*channels=3 \(4 to use"):
            read_image(file(), "a.png", 5)
    np.testing.assert_array_equal(as_array(read_image(deep_png(4, DEEP[..., :2]), "it", 1)), DEEP[..., :1])


def test_rgb_of_8_bits_stays_an_image_of_pillow() -> None:
    for file in (flat_png(2, FLAT[..., :3]), flat_png(6, FLAT[..., :4]), flat_png(0, FLAT[..., :1])):
        found = read_image(file)
        assert isinstance(found, Image.Image)
        assert found.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation: int) -> None:
    expected = TURNS[orientation](DEEP)
    np.testing.assert_array_equal(turn(DEEP, orientation), expected)
    file = tiff(DEEP, extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(as_array(read_image(file, "it", 5)), expected)


@pytest.mark.parametrize(
    ("file", "channels", "bits", "reason"),
    [
        (tiff(DEEP), 3, None, "has 5 channels of 16 bits; expected 3 channels. Train with channels=5"),
        (tiff(FLAT[..., :4]), 3, None, "has 4 channels of 8 bits; expected 3 channels. Train with channels=4"),
        (deep_png(0, DEEP[..., :1]), 3, None, "has 1 channel of 16 bits; expected 3 channels. Train with channels=1"),
        (flat_png(2, FLAT[..., :3]), 1, None, "has 3 channels of 8 bits; expected 1 channel. Train with channels=3"),
        (flat_png(2, FLAT[..., :3]), 3, 16, "has 3 channels of 8 bits; expected 3 channels of 16 bits: convert"),
        (deep_png(2, DEEP[..., :3]), 3, 8, "has 3 channels of 16 bits; expected 3 channels of 8 bits: convert it to 8"),
        (tiff(DEEP[..., :1].astype(np.float32)), 1, None, "1 channel of type float32 and 32 bits: convert it to unsi"),
        (tiff(DEEP.astype(np.int16)), 5, None, "5 channels of type int16 and 16 bits: convert it to unsigned"),
        (tiff(DEEP.astype(np.uint32)), 5, None, "5 channels of type uint32 and 32 bits: convert it to unsigned"),
        (tiff(DEEP[..., :1] > 9), 1, None, "type bool and 1 bits: convert it to unsigned"),
        (BytesIO(png(1, 0, FLAT[:, :2, 0])), 1, None, "has 1 bit per channel"),
        (tiff(np.moveaxis(DEEP, -1, 0).copy(), planarconfig=None), 5, None, "is a TIFF of several pages: save it"),
        (BytesIO(tiff(DEEP).getvalue()[:-9]), 5, None, "damaged or cut off"),
        (BytesIO(deep_png(2, DEEP[..., :3]).getvalue()[:-40]), 3, None, "damaged or cut off"),
        (BytesIO(b"II*\0" + bytes(30)), 5, None, "damaged or cut off: there is no page"),
        (tiff(DEEP[..., :1], photometric="miniswhite"), 1, None, "photometric interpretation 'MINISWHITE'"),
    ],
)  # fmt: skip
def test_other_files_are_refused_by_name(file: BytesIO, channels: int, bits: int | None, reason: str) -> None:
    with pytest.raises(InputError) as raised:
        read_image(file, "folder/a.tif", channels, bits)
    assert str(raised.value).startswith("folder/a.tif ")
    assert reason in str(raised.value)


def test_reduced_copies_and_masks_of_a_page_do_not_count() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(DEEP, photometric="minisblack", planarconfig="contig", metadata=None)
        writer.write(DEEP[::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(as_array(read_image(BytesIO(file.getvalue()), "it", 5)), DEEP)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("side", [3, 11])
def test_each_channel_is_resized_like_an_rgb_image(interpolation: str, side: int) -> None:
    rgb = Image.fromarray(FLAT[..., :3].copy())
    expected = np.asarray(F.resize(rgb, [side], InterpolationMode(interpolation)))
    found = resized(ChannelImage(FLAT), side, interpolation).values
    np.testing.assert_array_equal(found[..., :3], expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest-exact"])
@pytest.mark.parametrize("side", [3, 12])
def test_16_bits_are_resized_like_floats(interpolation: str, side: int) -> None:
    floats = torch.from_numpy(DEEP.astype(np.float64)).permute(2, 0, 1)
    expected = F.resize(floats, [side], InterpolationMode(interpolation)).permute(1, 2, 0).numpy().clip(0, 2**16 - 1)
    found = resized(ChannelImage(DEEP), side, interpolation.removesuffix("-exact")).values
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.51


def test_16_bits_are_shown_from_the_1st_to_the_99th_percentile() -> None:
    values = np.zeros((10, 100, 5), np.uint16)
    values[..., 0] = np.arange(1000).reshape(10, 100)
    shown = displayed(values)
    low, high = np.percentile(values[..., 0], (1, 99))
    np.testing.assert_array_equal(shown[..., 0], np.rint(((values[..., 0] - low) / (high - low)).clip(0, 1) * 255))
    assert not shown[..., 1:].any()
    np.testing.assert_array_equal(displayed(FLAT), FLAT[..., :3])
    np.testing.assert_array_equal(displayed(FLAT[..., :2]), FLAT[..., [0, 0, 0]])


def test_titles_say_which_channels_are_shown() -> None:
    assert [display_note(*each) for each in ((3, 8), (1, 8), (5, 16))] == [
        "", "shown: channel 1", "shown: channels 1 to 3 of 5, stretched from 1st to 99th percentile"
    ]  # fmt: skip


@pytest.mark.parametrize("pixels", [DEEP, FLAT, DEEP[..., :3], FLAT[..., :3], FLAT[..., :1], DEEP[..., :2]])
def test_encoded_pixels_are_read_again(pixels: np.ndarray) -> None:
    found = read_image(BytesIO(encoded(pixels)), "it", pixels.shape[2])
    np.testing.assert_array_equal(as_array(found), pixels)
