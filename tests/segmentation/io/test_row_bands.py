"""Rows of image files against Pillow, which decodes the whole file."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from segmentation.errors import InputError
from segmentation.io import row_bands as module
from segmentation.io.decoding import TooLargeError, pixel_limit, read_image
from segmentation.io.row_bands import TiffBands, WholeImage, row_bands
from tests.segmentation.prediction.test_predictor import random_image


@pytest.fixture(autouse=True)
def small_images_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(module, "RAW_ROWS", 16)


def check(file: Path, kind: type) -> None:
    """Check that the rows of a file are those of the whole file."""
    whole = np.array(read_image(file))
    with row_bands(file) as source:
        assert type(source) is kind
        assert (source.width, source.height) == whole.shape[1::-1]
        for rows in (7, 16, 50):
            for top in range(0, source.height, rows):
                bottom = min(top + rows, source.height)
                np.testing.assert_array_equal(source.rows(top, bottom), whole[top:bottom])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "LA"])
def test_strips_of_every_kind(compression: str, mode: str, tmp_path: Path) -> None:
    if (compression == "jpeg" and mode in "1P") or (compression == "group4" and mode != "1"):
        pytest.skip("no such TIFF")
    image = random_image((61, 90), 0)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    file = tmp_path / "image.tif"
    image.save(file, compression=compression, tiffinfo={module.STRIP_ROWS: 16})
    check(file, TiffBands)


def write_tiles(
    file: Path, pixels: np.ndarray, tile: tuple[int, int], compressed: bool = False, order: bytes = b"II"
) -> None:
    """Write a tiled TIFF: Pillow writes none."""
    (height, width, bands), (high, wide) = pixels.shape, tile
    padded = np.zeros((-(-height // high) * high, -(-width // wide) * wide, bands), np.uint8)
    padded[:height, :width] = pixels
    tiles = [
        padded[top : top + high, left : left + wide].tobytes()
        for top in range(0, height, high)
        for left in range(0, width, wide)
    ]
    if compressed:
        tiles = [zlib.compress(each) for each in tiles]
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=order)
    tags[256], tags[257], tags[258], tags[277], tags[284] = width, height, (8,) * bands, bands, 1
    tags[259], tags[262] = 8 if compressed else 1, 2 if bands == 3 else 1
    tags[322], tags[323], tags[325] = wide, high, tuple(map(len, tiles))
    tags[324] = (0,) * len(tiles)
    start = 8 + len(tags.tobytes(8))
    tags[324] = tuple(start + sum(map(len, tiles[:number])) for number in range(len(tiles)))
    with file.open("wb") as stream:
        tags.save(stream)
        stream.write(b"".join(tiles))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", [b"II", b"MM"])
@pytest.mark.parametrize("bands", [1, 3])
def test_tiles(compressed: bool, order: bytes, bands: int, tmp_path: Path) -> None:
    pixels = np.array(random_image((61, 90), 0))[:, :, :bands]
    file = tmp_path / "image.tif"
    write_tiles(file, pixels, (32, 16), compressed, order)
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.array(image).reshape(pixels.shape), pixels)
    check(file, TiffBands)


def test_an_uncompressed_strip_is_read_in_parts_and_a_compressed_one_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = random_image((61, 90), 0)
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 2**30)
    for mode in ("RGB", "L", "1"):
        image.convert(mode).save(tmp_path / "one.tif")
        check(tmp_path / "one.tif", TiffBands)
    monkeypatch.setattr(module, "MAX_SEGMENT_PIXELS", 3000)
    image.save(tmp_path / "one.tif", compression="tiff_lzw")
    check(tmp_path / "one.tif", WholeImage)


def test_other_files_are_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image((61, 90), 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, options in {"a.png": {}, "b.jpg": {}, "turned.tif": {"exif": turned}}.items():
        image.save(tmp_path / name, **options)
        check(tmp_path / name, WholeImage)
    image.save(tmp_path / "small.tif", compression="tiff_lzw", tiffinfo={module.STRIP_ROWS: 16})
    monkeypatch.setattr(module, "WHOLE_PIXELS", 61 * 90)
    check(tmp_path / "small.tif", WholeImage)


@pytest.mark.parametrize("options", [{"tile": (32, 16)}, {"rowsperstrip": 7, "compression": "lzw"}, {"byteorder": ">"}])
def test_several_channels_of_16_bits(options: dict[str, Any], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (90, 61, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", **options)
    with row_bands(tmp_path / "a.tif", 5, 16) as source:
        assert isinstance(source, TiffBands)
        found = np.concatenate([source.rows(top, min(top + 13, 90)) for top in range(0, 90, 13)])
    np.testing.assert_array_equal(found, pixels)


def test_only_the_needed_strips_are_decoded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image((50, 400), 0)
    image.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={module.STRIP_ROWS: 10})
    decoded = []
    monkeypatch.setattr(module, "read_image", lambda *given: decoded.append(1) or read_image(*given))
    with row_bands(tmp_path / "a.tif") as source:
        assert isinstance(source, TiffBands)
        source.rows(100, 130)
        assert len(decoded) == 3
        source.rows(120, 150)
        assert len(decoded) == 5, "a strip that two windows share is decoded once"
        for top in range(130, 370):
            source.rows(top, top + 30)
            assert len(source._decoded) <= 8
        assert len(decoded) == 30


def test_images_that_cannot_be_read_are_refused_as_elsewhere(tmp_path: Path) -> None:
    image = random_image((61, 90), 0)
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    Image.new("I;16", (61, 90)).save(tmp_path / "deep.tif", tiffinfo={module.STRIP_ROWS: 16})
    image.save(tmp_path / "cut.tif", compression="tiff_lzw", tiffinfo={module.STRIP_ROWS: 16})
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    for name, reason in {
        "pages": "holds several images",
        "deep": "1 channel of 16 bits",
        "cut": "cannot be read",
    }.items():
        with (
            pytest.raises(InputError, match=f"it {reason}|it .*{reason}"),
            row_bands(tmp_path / f"{name}.tif") as source,
        ):
            source.rows(0, source.height)


def test_the_number_of_pixels_is_limited(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.new("L", (100, 90)).save(tmp_path / name)
        with pixel_limit(9000), row_bands(tmp_path / name) as source:
            assert source.rows(0, 90).shape == (90, 100, 3)
        with pixel_limit(8999), pytest.raises(TooLargeError, match="more than 8,999 pixels"):
            row_bands(tmp_path / name).__enter__()
