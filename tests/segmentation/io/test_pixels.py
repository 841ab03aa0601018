"""Pixels of files that are written byte by byte, and of every EXIF orientation."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmentation.io.pixels import UnfitError, color_image, mask_values

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (3, 5, 3), dtype=np.uint8)
INDICES = RANDOM.integers(0, 4, (3, 5), dtype=np.uint8)
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1), 8: np.rot90,
}  # fmt: skip
"""The upright image for each stored orientation, by EXIF's definition of the tag."""


def png(depth: int, colour: int, rows: np.ndarray, extra: bytes = b"") -> bytes:
    """Encode rows of bytes as a PNG, by the specification."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width = rows.shape[1] * 8 // depth // samples
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def tiff(bits: int, photometric: int, rows: np.ndarray, bands: int = 1, **tags: tuple[int, ...]) -> bytes:
    """Encode rows of bytes as a TIFF, by the specification.

    The tags are `extra` (ExtraSamples), `form` (SampleFormat) and `subfile` (NewSubfileType); `at` is the offset of the
    directory.
    """
    entries = {256: (rows.shape[1] * 8 // bits // bands,), 257: (len(rows),), 258: (bits,) * bands, 259: (1,),
               262: (photometric,), 273: (0,), 277: (bands,), 278: (len(rows),), 279: (rows.size,)}  # fmt: skip
    (at,) = tags.pop("at", (8,))
    entries |= {{"subfile": 254, "extra": 338, "form": 339}[name]: values for name, values in tags.items()}
    start = at + 2 + 12 * len(entries) + 4
    long = b"".join(struct.pack(f"<{len(v)}H", *v) for _, v in sorted(entries.items()) if len(v) > 2)
    entries[273] = (start + len(long),)
    directory, used = struct.pack("<H", len(entries)), 0
    for tag, values in sorted(entries.items()):
        directory += struct.pack("<HHI", tag, 3, len(values))
        if len(values) > 2:
            directory += struct.pack("<I", start + used)
            used += 2 * len(values)
        else:
            directory += struct.pack(f"<{len(values)}H", *values).ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + long + rows.tobytes()


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack several values into each byte, the first one in the highest bits."""
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(values), -1)
    return np.packbits(spread.astype(np.uint8), axis=1)


def read(function: Callable[[Image.Image], Any], content: bytes) -> np.ndarray:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(function(image))


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(RANDOM.integers(0, 256, 768, dtype=np.uint8).tolist())
    return image


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_exif_orientation_is_applied_to_images_and_masks(kind: str, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content, plain = (stored(Image.fromarray(COLOURS), kind, **options, **more) for more in ({"exif": exif}, {}))
    with Image.open(BytesIO(plain)) as image:
        expected = TURNS[value](np.asarray(image))
    np.testing.assert_array_equal(read(color_image, content), expected)
    if kind in ("PNG", "TIFF"):
        for mask in (Image.fromarray(INDICES), palette(INDICES), Image.fromarray(INDICES.astype(np.uint16))):
            found = read(mask_values, stored(mask, kind, exif=exif))
            np.testing.assert_array_equal(found, TURNS[value](INDICES))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_grey_mask_of_any_depth_has_the_stored_values(kind: str, bits: int) -> None:
    values = RANDOM.integers(0, 2**bits, (5, 8)).astype(np.int64)
    rows = packed(values, bits) if bits < 16 else values.astype(">u2" if kind == "png" else "<u2").view(np.uint8)
    content = png(bits, 0, rows) if kind == "png" else tiff(bits, 1, rows)
    np.testing.assert_array_equal(read(mask_values, content), values)
    if kind == "png" and bits < 16:
        colours = b"".join(bytes([i, 255 - i, 7]) for i in range(2**bits))
        plte = struct.pack(">I", len(colours)) + b"PLTE" + colours + struct.pack(">I", zlib.crc32(b"PLTE" + colours))
        np.testing.assert_array_equal(read(mask_values, png(bits, 3, rows, plte)), values)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_a_palette_mask_keeps_its_indices_even_with_a_colour_key(kind: str) -> None:
    options = {"PNG": {"transparency": 0}, "GIF": {"transparency": 0, "optimize": False}}.get(kind, {})
    np.testing.assert_array_equal(read(mask_values, stored(palette(INDICES), kind, **options)), INDICES)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.float32])
def test_a_mask_of_whole_numbers_may_have_any_type(dtype: type) -> None:
    np.testing.assert_array_equal(read(mask_values, stored(Image.fromarray(INDICES.astype(dtype)), "TIFF")), INDICES)


def test_signed_bytes_are_negative_numbers_not_void() -> None:
    content = tiff(8, 1, np.full((2, 80), 255, np.uint8), form=(2,))
    assert (read(mask_values, content) == -1).all()


def pages(image: Image.Image, kind: str, count: int = 2) -> bytes:
    more = [image.transpose(Image.Transpose.ROTATE_180)] * (count - 1)
    return stored(image, kind, save_all=True, append_images=more)


GREY = Image.fromarray(COLOURS[..., 0])
COLOUR = Image.fromarray(COLOURS)
BYTES = RANDOM.integers(0, 256, (2, 80), dtype=np.uint8)
UNFIT_MASKS = {
    "tiff pages": (pages(Image.fromarray(INDICES), "TIFF"), "holds several images"),
    "apng": (pages(Image.fromarray(INDICES), "PNG"), "holds several images"),
    "gif": (pages(palette(INDICES), "GIF"), "holds several images"),
    "colour": (stored(COLOUR), r"is a colour image \(mode RGB\)"),
    "cmyk": (stored(COLOUR.convert("CMYK"), "TIFF"), r"is a colour image \(mode CMYK\)"),
    "lab": (stored(Image.new("LAB", (4, 4)), "TIFF"), r"is a colour image \(mode LAB\)"),
    "grey with alpha": (stored(GREY.convert("LA")), r"has a transparency channel \(mode LA\)"),
    "16 bits with alpha": (png(16, 4, BYTES), "has a transparency channel"),
    "palette with alpha": (stored(palette(INDICES).convert("PA"), "TIFF"), "has a transparency channel"),
    "fractions": (stored(Image.fromarray(INDICES / np.float32(2)), "TIFF"), r"holds 0\.5, which is not a class index"),
    "not a number": (stored(Image.new("F", (4, 4), np.nan), "TIFF"), r"holds nan, .* \(16 pixels"),
    "white is 0": (tiff(8, 0, BYTES), "MinIsWhite"),
    "white is 0, 16 bits": (tiff(16, 0, BYTES), "MinIsWhite"),
    "two bands": (tiff(8, 1, BYTES, 2, extra=(0,)), "has 2 bands"),
    "jpeg": (stored(GREY, "JPEG"), "is a JPEG"),
    "jpeg in a tiff": (stored(GREY, "TIFF", compression="jpeg"), "is a JPEG"),
    "webp": (stored(GREY, "WEBP", lossless=True), "is a colour image"),
    "no exif": (stored(GREY, exif=b"Exif\0\0garbage"), "has damaged EXIF data"),
}
UNFIT_IMAGES = {
    "tiff pages": (pages(COLOUR, "TIFF"), "holds several images"),
    "apng": (pages(COLOUR, "PNG"), "holds several images"),
    "gif": (pages(COLOUR, "GIF"), "holds several images"),
    "webp": (pages(COLOUR, "WEBP"), "holds several images"),
    "png, 16 bits grey": (png(16, 0, BYTES), "has more than 8 bits per channel"),
    "png, 16 bits colour": (png(16, 2, BYTES[:, :60]), "has more than 8 bits per channel"),
    "png, 16 bits grey and alpha": (png(16, 4, BYTES), "has more than 8 bits per channel"),
    "png, 16 bits colour and alpha": (png(16, 6, BYTES), "has more than 8 bits per channel"),
    "tiff, 16 bits colour": (tiff(16, 2, BYTES[:, :60], 3), "has more than 8 bits per channel"),
    "tiff, 16 bits and a fourth band": (tiff(16, 2, BYTES, 4, extra=(0,)), "has more than 8 bits per channel"),
    "tiff, 16 bits cmyk": (tiff(16, 5, BYTES, 4), "has more than 8 bits per channel"),
    "tiff, 32 bits": (tiff(32, 1, BYTES, form=(1,)), "has more than 8 bits per channel"),
    "tiff, fractions": (tiff(32, 1, BYTES, form=(3,)), "has more than 8 bits per channel"),
    "near infrared": (tiff(8, 2, BYTES, 4, extra=(0,)), "has 4 bands, of which 1 would be lost"),
    "a fourth band undeclared": (tiff(8, 2, BYTES, 4), "has 4 bands, of which 1 would be lost"),
    "five bands": (tiff(8, 2, BYTES, 5, extra=(2, 0)), "has 5 bands, of which 2 would be lost"),
    "two bands": (tiff(8, 1, BYTES, 2, extra=(0,)), "has 2 bands, of which 1 would be lost"),
    "lab": (stored(Image.new("LAB", (4, 4)), "TIFF"), "is in the colour space LAB"),
    "no exif": (stored(COLOUR, "WEBP", exif=b"Exif\0\0garbage"), "has damaged EXIF data"),
}


@pytest.mark.parametrize("case", UNFIT_MASKS)
def test_a_mask_that_would_be_misread_is_refused_with_the_reason(case: str) -> None:
    content, message = UNFIT_MASKS[case]
    with pytest.raises(UnfitError, match=message):
        read(mask_values, content)


@pytest.mark.parametrize("case", UNFIT_IMAGES)
def test_an_image_that_would_be_misread_is_refused_with_the_reason(case: str) -> None:
    content, message = UNFIT_IMAGES[case]
    with pytest.raises(UnfitError, match=message):
        read(color_image, content)


def test_a_grey_bmp_of_four_bits_is_refused() -> None:
    """Its palette equals the indices, so Pillow reads it as 8 bits."""
    header = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 4, 0, 8, 0, 0, 16, 0)
    colours = b"".join(bytes([i, i, i, 0]) for i in range(16))
    offset = 14 + len(header) + len(colours)
    content = b"BM" + struct.pack("<IHHI", offset + 8, 0, 0, offset) + header + colours + bytes(range(8))
    for how in (mask_values, color_image):
        with pytest.raises(UnfitError, match="is a BMP of 4 bits with a grey palette"):
            read(how, content)


def test_images_of_every_common_mode_are_read_as_rgb() -> None:
    rgb, alpha = COLOURS, np.dstack([COLOURS, GREY])
    transparent = palette(INDICES)
    grey = np.asarray(GREY)[..., None].repeat(3, 2)
    cases = [
        (stored(COLOUR), rgb), (stored(Image.fromarray(alpha)), rgb), (stored(Image.fromarray(alpha), "TIFF"), rgb),
        (stored(Image.fromarray(np.dstack([COLOURS[..., 0], COLOURS[..., 1]])), "PNG"), grey), (stored(GREY), grey),
        (stored(GREY, transparency=7), grey), (stored(COLOUR, transparency=(1, 2, 3)), rgb),
        (stored(transparent, transparency=bytes([0, 9])), np.asarray(transparent.convert("RGB"))),
        (tiff(8, 0, 255 - BYTES), BYTES[..., None].repeat(3, 2)),
        (png(2, 0, packed(INDICES[:, :4], 2)), (INDICES[:, :4] * 85)[..., None].repeat(3, 2)),
        (tiff(8, 2, BYTES, 4, extra=(2,)), BYTES.reshape(2, 20, 4)[..., :3]),
    ]  # fmt: skip
    for content, expected in cases:
        np.testing.assert_array_equal(read(color_image, content), expected)


def test_the_first_frame_of_a_camera_s_jpeg_is_read() -> None:
    content = stored(COLOUR, "MPO", save_all=True, append_images=[COLOUR.rotate(90)], quality=100)
    with Image.open(BytesIO(content)) as image:
        assert image.format == "MPO"
    first = stored(COLOUR, "JPEG", quality=100)
    np.testing.assert_array_equal(read(color_image, content), read(color_image, first))
    with pytest.raises(UnfitError, match="is a JPEG"):
        read(mask_values, content)


def followed_by(first: bytes, second: bytes) -> bytes:
    """Join two TIFFs to one file of two pages."""
    (entries,) = struct.unpack("<H", first[8:10])
    link = 10 + 12 * entries
    return first[:link] + struct.pack("<I", len(first)) + first[link + 4 :] + second[8:]


@pytest.mark.parametrize("kind", [1, 4, 5])
def test_smaller_copies_in_a_tiff_are_not_further_images(kind: int) -> None:
    """Geographic software writes such copies for fast display."""
    first = tiff(8, 2, BYTES[:, :60], 3)
    copy = tiff(8, 2, BYTES[:1, :30], 3, at=(len(first),), subfile=(kind,))
    expected = BYTES[:, :60].reshape(2, 20, 3)
    np.testing.assert_array_equal(read(color_image, followed_by(first, copy)), expected)
    other = followed_by(first, tiff(8, 2, BYTES[:1, :30], 3, at=(len(first),), subfile=(0,)))
    with pytest.raises(UnfitError, match="holds several images"):
        read(color_image, other)
