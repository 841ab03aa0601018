"""Mangled photographs, masks and images to predict; and generated PNG files."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from segmentation.classes import VOID, Classes
from segmentation.data.masks import read_indices
from segmentation.data.pairs import ImagePairs
from segmentation.errors import InputError
from segmentation.io.channels import ChannelImage, layout_of
from segmentation.io.decoding import decoded, read_image
from segmentation.io.limits import MAX_PIXELS
from tests.conftest import needs_camvid
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up
from tests.fuzz.mutation import jpeg_of_size, mutated, png_of_size
from tests.segmentation.io.test_pixels import png as stored_png

pytestmark = [needs_camvid, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]  # Pillow's own warnings

NAMES = Classes.named("red", "green", "blue")
CLASSES = {0: 0, 1: 1, 2: 2, VOID: VOID}
CAMVID_CLASSES = {index: index for index in range(11)} | {11: VOID, VOID: VOID}
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 24, 3), dtype=np.uint8)
INDICES = RANDOM.choice(np.array([0, 1, 2, 255], np.uint8), (20, 24))
SIZES = (
    (0, 1),
    (1, 0),
    (1, 1),
    (65535, 65535),
    (2**31 - 1, 1),
    (2**31 - 1, 2**31 - 1),
    (2**32 - 1, 9),
    (20_000, 20_000),
)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photographs() -> list[bytes]:
    """Small photographs in every common format and mode."""
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return [
        stored(image, "JPEG", exif=exif), stored(image, "JPEG", progressive=True),
        stored(image.convert("L"), "JPEG"),
        stored(image.convert("CMYK"), "JPEG"), stored(image, "PNG"), stored(image.convert("RGBA"), "PNG"),
        stored(image.quantize(16), "PNG", transparency=bytes(range(16))), stored(image.convert("1"), "PNG"),
        stored(image, "TIFF"), stored(image, "TIFF", compression="tiff_lzw"),
        stored(image, "TIFF", compression="jpeg"), stored(image.convert("L"), "TIFF", compression="tiff_deflate"),
        stored(image, "GIF", save_all=True, append_images=[image.rotate(90)]), stored(image, "WEBP"),
        stored(image, "BMP"), stored(image, "PPM"), stored(image, "JPEG2000"),
    ]  # fmt: skip


def masks() -> list[bytes]:
    """Small masks in every common format and mode."""
    mask = Image.fromarray(INDICES)
    palette = mask.copy()
    palette.putpalette(list(range(256)) * 3)
    sixteen = Image.fromarray(INDICES.astype(np.uint16))
    return [
        stored(mask, "PNG"), stored(palette, "PNG"), stored(palette, "PNG", transparency=0), stored(sixteen, "PNG"),
        stored(Image.fromarray((INDICES == 255).astype(np.uint8) * 255).convert("1"), "PNG"), stored(mask, "TIFF"),
        stored(palette, "TIFF", compression="tiff_lzw"), stored(sixteen, "TIFF"), stored(mask, "BMP"),
        stored(mask, "GIF"),
    ]  # fmt: skip


def of_absurd_size(content: bytes, random: Random) -> bytes:
    size = random.choice(SIZES)
    if content.startswith(b"\x89PNG"):
        return png_of_size(content, *size)
    return jpeg_of_size(content, *size) if content.startswith(b"\xff\xd8") else content


def mangled(contents: list[bytes], random: Random) -> bytes:
    content = random.choice(contents)
    return of_absurd_size(content, random) if random.random() < 0.1 else mutated(content, random, contents)


def pairs(folder: Path, image: bytes, mask: bytes, classes: dict[int, int] = CLASSES) -> ImagePairs:
    files = folder / "photograph.png", folder / "mask.png"
    for file, content in zip(files, (image, mask), strict=True):
        file.write_bytes(content)
    return ImagePairs(NAMES, str(folder), {"one": files}, classes)


def size_of(content: bytes) -> tuple[int, int] | None:
    """Width and height, or None if Pillow cannot read the image."""
    try:
        with Image.open(BytesIO(content)) as image:
            return ImageOps.exif_transpose(image).size
    except Exception:
        return None


def check_photograph(door: Door, content: bytes, mask: bytes, classes: dict[int, int]) -> None:
    """Check that the image is refused by name, or has the pixels that Pillow's own orientation and conversion give."""
    found = door(lambda: pairs(door.folder, content, mask, classes).read(0), ("photograph.png", "mask.png"))
    if found is None:
        return
    assert found.image.mode == "RGB"
    assert found.mask.shape == (found.image.height, found.image.width)
    with Image.open(BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        expected = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
        np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected))


def test_mangled_photographs(door: Callable[[str], Door], real_images: tuple[list[bytes], list[bytes]]) -> None:
    door, small = door("images"), photographs()
    real, real_masks = real_images
    for random in door.randoms():
        if random.random() < 0.2:
            index = random.randrange(len(real))
            check_photograph(door, mangled([real[index]], random), real_masks[index], CAMVID_CLASSES)
            continue
        content = mangled(small, random)
        size = size_of(content)
        blank = (
            stored(Image.new("L", size), "PNG")
            if size and size[0] * size[1] < 2**20
            else stored(Image.new("L", (9, 9)), "PNG")
        )
        check_photograph(door, content, blank, CLASSES)
    assert door.right > door.tried // 20
    assert door.refused > door.tried // 4


def test_mangled_masks(door: Callable[[str], Door], real_images: tuple[list[bytes], list[bytes]]) -> None:
    door, small = door("masks"), masks()
    photograph = stored(Image.fromarray(PIXELS), "PNG")
    real, real_masks = real_images
    for random in door.randoms():
        if random.random() < 0.2:
            index = random.randrange(len(real))
            content, image, classes = mangled([real_masks[index]], random), real[index], CAMVID_CLASSES
        else:
            content, image, classes = mangled(small, random), photograph, CLASSES
        source = pairs(door.folder, image, content, classes)
        found = door(lambda source=source: source.read(0), ("mask.png", "photograph.png"))
        if found is not None:
            with Image.open(BytesIO(content)) as mask:
                bits = mask.tag_v2.get(258, (8,))[0] if mask.format == "TIFF" and mask.mode == "L" else 8
                values = np.asarray(ImageOps.exif_transpose(mask)).astype(np.int64) // (255 // (2**bits - 1))
            np.testing.assert_array_equal(found.mask, np.vectorize(classes.__getitem__)(values))
    assert door.right > door.tried // 20
    assert door.refused > door.tried // 4


def test_mangled_colour_masks(door: Callable[[str], Door]) -> None:
    door = door("colour masks")
    colors = {0x102030: 0, 0x0000FF: 1, 0xFFFFFF: 2, 0: VOID}
    table = np.zeros((256, 3), np.uint8)
    table[[0, 1, 2]] = [(0x10, 0x20, 0x30), (0, 0, 0xFF), (0xFF, 0xFF, 0xFF)]
    mask = Image.fromarray(table[INDICES])
    contents = [
        stored(mask, "PNG"), stored(mask.convert("RGBA"), "PNG"), stored(mask.quantize(8), "PNG"), stored(mask, "TIFF"),
        stored(mask, "BMP"), stored(mask.convert("RGBA"), "TIFF", compression="tiff_lzw"), stored(mask, "JPEG"),
        stored(mask.quantize(8), "PNG", transparency=0), stored(Image.fromarray(INDICES == 2), "PNG"),
    ]  # fmt: skip
    file = Path("mask.png")
    for random in door.randoms():
        content = mangled(contents, random)
        found = door(lambda content=content: read_indices(content, file, {}, colors, NAMES), "mask.png")
        if found is not None:
            with Image.open(BytesIO(content)) as image:
                shown = np.asarray(ImageOps.exif_transpose(image).convert("RGBA").convert("RGB")).astype(np.int64)
            codes = shown @ np.array([0x10000, 0x100, 1])
            np.testing.assert_array_equal(found, np.vectorize(colors.__getitem__)(codes))
    assert door.right > door.tried // 20
    assert door.refused > door.tried // 4


def test_mangled_images_to_predict(door: Callable[[str], Door], real_images: tuple[list[bytes], list[bytes]]) -> None:
    door = door("images to predict")
    contents = photographs() + masks()
    file = door.folder / "image.png"
    for random in door.randoms():
        content = mangled([random.choice(real_images[0])] if random.random() < 0.15 else contents, random)
        file.write_bytes(content)
        found = door(lambda: read_image(file), "it ")
        if found is None:
            continue
        if isinstance(found, ChannelImage):
            continue
        assert found.mode == "RGB"
        with Image.open(BytesIO(content)) as image:
            image.load()
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            assert found.size == (image.size[::-1] if turned else image.size)
    assert door.right > door.tried // 20


@st.composite
def png(draw: st.DrawFn) -> bytes:
    """A PNG with any header and correct checksums, whose data may be too short, too long or not compressed."""
    number = st.one_of(st.integers(0, 40), st.sampled_from([255, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]))
    width, height = draw(number), draw(number)
    depth, colour = draw(st.sampled_from([1, 2, 4, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 1, 7]))
    rest = bytes(draw(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1]), st.sampled_from([0, 1, 2]))))
    data = draw(st.binary(max_size=60)) * draw(st.sampled_from([1, 40, 2000]))
    data = zlib.compress(data) if draw(st.booleans()) else data
    chunks = [(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + rest), (b"IDAT", data), (b"IEND", b"")]
    kinds = st.sampled_from(
        [b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"acTL", b"fcTL", b"zzZz"]
    )
    chunks[1:1] = draw(st.lists(st.tuples(kinds, st.binary(max_size=80)), max_size=3))
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_generated_images(door: Callable[[str], Door]) -> None:
    door = door("generated images")
    file = door.folder / "image.png"

    @made_up(door.name)
    @given(st.one_of(png(), png(), st.binary(max_size=200)))
    def one(content: bytes) -> None:
        file.write_bytes(content)
        found = door(lambda: read_image(file), "it ")
        assert found is None or found.width * found.height <= MAX_PIXELS
        assert found is None or (found.values.shape[2] == 3 if isinstance(found, ChannelImage) else found.mode == "RGB")

    one()


def of_several_channels() -> list[bytes]:
    """Small images of 1 to 5 channels, of 8 and 16 bits, in every layout that is read."""
    deep = RANDOM.integers(0, 2**16, (12, 16, 5), dtype=np.uint16)
    options: list[dict[str, Any]] = [
        {}, {"compression": "zlib", "predictor": True}, {"compression": "lzw", "tile": (16, 16)},
        {"compression": "zstd", "bigtiff": True}, {"byteorder": ">", "rowsperstrip": 4},
    ]  # fmt: skip
    files = []
    for each in options:
        for pixels in (deep, deep[..., :4], deep.astype(np.uint8)):
            for planar, shown in (("contig", pixels), ("separate", np.moveaxis(pixels, -1, 0).copy())):
                file = BytesIO()
                tifffile.imwrite(file, shown, photometric="minisblack", planarconfig=planar, **each)
                files.append(file.getvalue())
    wide = deep.astype(">u2").reshape(12, -1).view(np.uint8)
    samples = {0: 1, 2: 3, 4: 2, 6: 4}
    return [*files, *(stored_png(16, colour, wide[:, : 32 * each]) for colour, each in samples.items())]


def test_mangled_images_of_several_channels(door: Callable[[str], Door]) -> None:
    door = door("images of several channels")
    contents = of_several_channels()
    file = door.folder / "image.tif"
    for random in door.randoms():
        content = random.choice(contents)
        file.write_bytes(mangled([content], random))
        channels = random.choice((1, 2, 3, 4, 5, *[layout_of(BytesIO(content)).channels] * 15))
        bits = random.choice((None, None, 8, 16))
        found = door(lambda: read_image(file, "it", channels, bits), "it ")  # noqa: B023
        if isinstance(found, ChannelImage):
            assert found.values.shape[2] == channels
            assert found.values.dtype in ((np.uint8, np.uint16) if bits is None else (f"uint{bits}",))
    assert door.right > door.tried // 20
    assert door.refused > door.tried // 4


@pytest.mark.parametrize(
    ("kind", "size"),
    [("PNG", (20_000, 20_000)), ("PNG", (14_000, 12_783)), ("GIF", (60_000, 60_000)), ("TIFF", (20_000, 20_000))],
)
def test_a_small_file_of_very_many_pixels_is_refused_before_it_is_decoded(
    kind: str, size: tuple[int, int], door: Callable[[str], Door]
) -> None:
    """The second case, 178,962,000 pixels, is just above the limit."""
    door = door("images")
    if kind == "PNG":
        content = png_of_size(stored(Image.new("1", (8, 8)), "PNG"), *size)
    elif kind == "GIF":
        small = stored(Image.new("L", (8, 8)), "GIF")
        content = small[:6] + struct.pack("<HH", *size) + small[10:]
    else:
        content = stored(Image.new("1", (8, 8)), "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, size[0])
        ).replace(struct.pack("<HHII", 257, 4, 1, 8), struct.pack("<HHII", 257, 4, 1, size[1]))  # fmt: skip
    file = door.folder / "bomb.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"it is too large: more than 178,956,970 pixels \({size[0] * size[1]:,}\)"):
        read_image(file)
    with pytest.raises(InputError, match=r"photograph\.png is too large: more than 178,956,970 pixels"):
        pairs(door.folder, content, stored(Image.new("L", (8, 8)), "PNG")).read(0)
    assert door(lambda: read_image(file), "too large") is None


def test_the_largest_photographs_are_below_the_limit() -> None:
    """150 million pixels, as of a medium format camera. The file has only a header, so decoding fails later."""
    content = png_of_size(stored(Image.new("1", (8, 8)), "PNG"), 14_204, 10_652)
    with pytest.raises(InputError, match="cut off"), decoded(BytesIO(content)):
        pass


def test_no_other_program_is_started_for_an_image(door: Callable[[str], Door]) -> None:
    """Pillow would pass PostScript to Ghostscript."""
    door = door("images")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
    with Image.open(BytesIO(content)) as image:
        assert image.format == "EPS"
    file = door.folder / "photograph.png"
    file.write_bytes(content)
    assert door(lambda: read_image(file), "no known format") is None
