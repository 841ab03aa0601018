"""Images in a request: every accepted form, and what is refused."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segmentation.io import channels
from studies.models.request import RequestError, decode_image, listed_images, open_image
from tests.segmentation.io.test_pixels import tiff

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (13, 17, 3), dtype=np.uint8)
SMALL = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def decoded(data: Any) -> list[np.ndarray]:
    images = listed_images(data)
    labels = [f"image {number} of {len(images)}" for number in range(1, len(images) + 1)]
    opened = [open_image(*pair) for pair in zip(images, labels, strict=True)]
    return [np.asarray(decode_image(*pair)) for pair in zip(opened, labels, strict=True)]


def check(data: Any, *expected: np.ndarray) -> None:
    for found, pixels in zip(decoded(data), expected, strict=True):
        np.testing.assert_array_equal(found, pixels)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


ONE, OTHER = text(encoded(PIXELS)), text(encoded(SMALL))
FORMS = {
    "text": ONE,
    "text with line breaks": base64.encodebytes(encoded(PIXELS)).decode(),
    "data URL": f"data:image/png;base64,{ONE}",
    "bytes": encoded(PIXELS),
    "tif": encoded(PIXELS, "TIFF"),
    "pixels": PIXELS,
    "wider pixels": PIXELS.astype(np.int64),
    "lists": PIXELS.tolist(),
    "PIL image": Image.fromarray(PIXELS),
    "opaque": encoded(np.dstack([PIXELS, np.full((13, 17), 9, np.uint8)])),
    "what MLflow makes of a text": np.array(ONE),
    "what MLflow makes of a field": {"image": np.array(ONE)},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_accepted_in_many_forms(form: str) -> None:
    check(FORMS[form], PIXELS)
    if not isinstance(FORMS[form], dict):
        check([FORMS[form]], PIXELS)


@pytest.mark.parametrize(
    "both",
    [
        [ONE, OTHER],
        [PIXELS, SMALL],
        [PIXELS.tolist(), SMALL.tolist()],
        (encoded(PIXELS), Image.fromarray(SMALL)),
        np.array([ONE, OTHER]),
        {"image": [ONE, OTHER]},
        [{"image": np.array(ONE)}, {"image": SMALL.tolist()}],
        pd.DataFrame({"image": [ONE, OTHER]}),
        pd.DataFrame([[PIXELS], [SMALL]]),
        pd.Series([ONE, OTHER]),
    ],
    ids=[
        "base64",
        "pixels",
        "lists",
        "tuple",
        "array of texts",
        "dict",
        "rows",
        "data frame",
        "data frame of pixels",
        "column",
    ],
)
def test_several_images_keep_their_order_and_sizes(both: Any) -> None:
    check(both, PIXELS, SMALL)


def test_a_batch_of_pixels() -> None:
    check(np.stack([PIXELS, PIXELS[::-1]]), PIXELS, PIXELS[::-1])
    check([PIXELS.tolist(), PIXELS[::-1].tolist()], PIXELS, PIXELS[::-1])


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the upper edge of the scene is on the right
    content = encoded(PIXELS, "JPEG", exif=exif, quality=100, subsampling=0)
    with Image.open(BytesIO(content)) as stored:
        upright = np.rot90(np.asarray(stored), -1)
    assert upright.shape == (17, 13, 3)
    check(content, upright)


def test_palette_and_greyscale_become_rgb() -> None:
    colours = np.array([[10, 200, 30], [220, 40, 50]], np.uint8)
    indices = (PIXELS[..., 0] > 99).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    file = BytesIO()
    image.save(file, "PNG", transparency=bytes([0, 255]))
    check(file.getvalue(), colours[indices])
    check(encoded(PIXELS[..., 0]), PIXELS[..., :1].repeat(3, 2))


def cut_off() -> str:
    return text(encoded(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")[:1500])


def bomb() -> str:
    """A small file of very many pixels."""
    file = BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return text(file.getvalue())


def two_pages() -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)])
    return file.getvalue()


TIFF_16 = tiff(16, 2, RANDOM.integers(0, 256, (2, 60), dtype=np.uint8), 3)
FIVE = channels.encoded(np.zeros((4, 6, 5), np.uint16))
INFRARED = tiff(8, 2, RANDOM.integers(0, 256, (2, 80), dtype=np.uint8), 4, extra=(0,))

REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ([], "the list is empty"),
    "no rows": (pd.DataFrame({"image": []}), "the list is empty"),
    "None": ([ONE, None], "image 2 of 2: a value of type NoneType"),
    "number": (5, "image 1 of 1: a value of type int"),
    "path": (["/home/me/a.png"], "image 1 of 1: the text is not base64"),
    "other file": ([ONE, ONE, text(b"%PDF-1.7")], "image 3 of 3: the 8 bytes"),
    "empty text": ("", "image 1 of 1: the 0 bytes"),
    "cut off": ([ONE, cut_off()], "image 2 of 2: the image is damaged"),
    "16 bits": (encoded(PIXELS[..., 0].astype(np.uint16)), "image 1 of 1: it has more than 8 bits"),
    "16 bits of colour": (TIFF_16, "image 1 of 1: it has more than 8 bits"),
    "two pages": (two_pages(), "image 1 of 1: it holds several images"),
    "near infrared": (INFRARED, "image 1 of 1: it has 4 bands"),
    "five channels": (FIVE, "image 1 of 1: it has 5 channels of 16 bits; expected 3 channels of 8 bits"),
    "bomb": ([ONE, bomb()], "image 2 of 2: it has too many pixels"),
    "fractions": (PIXELS / 255, "image 1 of 1: the pixels are float64"),
    "booleans": (PIXELS > 5, "image 1 of 1: the pixels are bool"),
    "negative": ([PIXELS, SMALL.astype(int) - 256], "image 2 of 2: the pixels range from"),
    "above 255": ((PIXELS.astype(int) + 256).tolist(), "must be within 0 to 255"),
    "grey": (PIXELS[..., 0], "shape (13, 17)"),
    "channels first": (np.moveaxis(PIXELS, 2, 0), "shape (3, 13, 17)"),
    "ragged": ([[[1, 2, 3], [1, 2]]], "differ in length or depth"),
    "text among the pixels": ([[[1, 2, "3"]]], "differ in length or depth"),
    "flat list": ([[1, 2, 3]], "lists of shape (3,)"),
    "no pixels": (PIXELS[:0], "shape (0, 17, 3)"),
    "empty image": (Image.new("RGB", (0, 3)), "a value of type Image"),
    "other field": ({"input": [ONE]}, "no field \"image\" among 'input'"),
    "other column": (pd.DataFrame({"photo": [ONE]}), "no field \"image\" among 'photo'"),
    "no column": (pd.DataFrame(index=[0]), 'no field "image":'),
    "fields in a field": ({"image": {"image": ONE}}, "holds fields again"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_in_one_short_sentence(kind: str) -> None:
    data, message = REFUSED[kind]
    with pytest.raises(RequestError) as error:
        decoded(data)
    assert message in str(error.value)
    assert len(str(error.value)) < 200
