"""What the served model makes of every kind of picture, and of what is none.

The network here says how strong each of the three colours is, so that the right answer can be read off the picture.
"""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segmentation.prediction.predictor import Predictor
from studies.models.served import MAX_LOGITS, MAX_PIXELS, Refused, ServedModel
from tests.segmentation.io.test_pixels import tiff

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (13, 17, 3), dtype=np.uint8)
SMALL = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def model(resize: int | None = None, calibration: str | None = None) -> ServedModel:
    predictor = Predictor(lambda images: images.float() / 100, resize, "bilinear")
    palette = [[250, 0, 0], [0, 240, 0], [0, 0, 230]]
    return ServedModel(predictor, ["red", "green", "blue"], palette, calibration)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def expected(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and confidence by the definition of the softmax."""
    powers = np.exp(pixels.astype(np.float64) / 100)
    probabilities = powers / powers.sum(2, keepdims=True)
    return probabilities.argmax(2), probabilities.max(2)


def check(records: list[dict[str, Any]], *pictures: np.ndarray) -> None:
    assert len(records) == len(pictures)
    for record, pixels in zip(records, pictures, strict=True):
        classes, confidence = expected(pixels)
        assert (record["height"], record["width"]) == pixels.shape[:2]
        np.testing.assert_array_equal(record["classes"], classes)
        np.testing.assert_allclose(record["confidence"], confidence, atol=0.5e-4 + 1e-6)
        assert record["class_names"] == ["red", "green", "blue"]


ONE, OTHER = text(encoded(PIXELS)), text(encoded(SMALL))
FORMS = {
    "text": ONE,
    "text with line breaks": base64.encodebytes(encoded(PIXELS)).decode(),
    "address": f"data:image/png;base64,{ONE}",
    "bytes": encoded(PIXELS),
    "tif": encoded(PIXELS, "TIFF"),
    "pixels": PIXELS,
    "wider pixels": PIXELS.astype(np.int64),
    "lists": PIXELS.tolist(),
    "picture": Image.fromarray(PIXELS),
    "opaque": encoded(np.dstack([PIXELS, np.full((13, 17), 9, np.uint8)])),
    "what MLflow makes of a text": np.array(ONE),
    "what MLflow makes of a field": {"image": np.array(ONE)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_in_any_form_is_predicted_at_its_own_size(form: str) -> None:
    check(model().predict(FORMS[form]), PIXELS)
    if not isinstance(FORMS[form], dict):
        check(model().predict([FORMS[form]]), PIXELS)


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
def test_several_pictures_keep_their_order_and_sizes(both: Any) -> None:
    check(model().predict(both), PIXELS, SMALL)


def test_a_batch_of_pixels() -> None:
    check(model().predict(np.stack([PIXELS, PIXELS[::-1]])), PIXELS, PIXELS[::-1])
    check(model().predict([PIXELS.tolist(), PIXELS[::-1].tolist()]), PIXELS, PIXELS[::-1])


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the upper edge of the scene is on the right
    content = encoded(PIXELS, "JPEG", exif=exif, quality=100, subsampling=0)
    with Image.open(BytesIO(content)) as stored:
        upright = np.rot90(np.asarray(stored), -1)
    assert upright.shape == (17, 13, 3)
    check(model().predict(content), upright)


def test_a_palette_and_grey() -> None:
    colours = np.array([[10, 200, 30], [220, 40, 50]], np.uint8)
    indices = (PIXELS[..., 0] > 99).astype(np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.ravel().tolist())
    file = BytesIO()
    picture.save(file, "PNG", transparency=bytes([0, 255]))
    check(model().predict(file.getvalue()), colours[indices])
    check(model().predict(encoded(PIXELS[..., 0])), PIXELS[..., :1].repeat(3, 2))


def test_pictures_as_an_answer() -> None:
    (record,) = model().predict(ONE, {"encoding": "png"})
    classes, confidence = expected(PIXELS)
    assert not {"classes", "confidence"} & record.keys()
    with Image.open(BytesIO(base64.b64decode(record["classes_png"]))) as mask:
        np.testing.assert_array_equal(np.asarray(mask), classes)
        assert mask.getpalette()[:9] == [250, 0, 0, 0, 240, 0, 0, 0, 230]
    with Image.open(BytesIO(base64.b64decode(record["confidence_png"]))) as map_:
        assert map_.mode == "L"
        np.testing.assert_allclose(np.asarray(map_) / 255, confidence, atol=0.5 / 255 + 1e-6)


def test_it_says_how_its_confidence_was_mended() -> None:
    assert model().predict(ONE)[0]["calibration"] is None
    assert model(calibration="vector").predict(ONE)[0]["calibration"] == "vector"


def test_json_holds_four_decimals() -> None:
    spelled = json.dumps(model().predict(ONE)[0]["confidence"].tolist())
    assert max(len(number) for number in spelled.replace("[", "").replace("]", "").split(", ")) == len("0.1234")


def cut_off() -> str:
    return text(encoded(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")[:1500])


def bomb() -> str:
    """A small file of very many pixels."""
    file = BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return text(file.getvalue())


def pages() -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)])
    return file.getvalue()


PAGES = pages()
TIFF_16 = tiff(16, 2, RANDOM.integers(0, 256, (2, 60), dtype=np.uint8), 3)
INFRARED = tiff(8, 2, RANDOM.integers(0, 256, (2, 80), dtype=np.uint8), 4, extra=(0,))

GARBAGE: dict[str, tuple[Any, str]] = {
    "nothing": ([], "there is no image"),
    "no rows": (pd.DataFrame({"image": []}), "there is no image"),
    "None": ([ONE, None], "image 2 of 2: a value of type NoneType"),
    "number": (5, "image 1 of 1: a value of type int"),
    "path": (["/home/me/a.png"], "image 1 of 1: the text is not base64"),
    "other file": ([ONE, ONE, text(b"%PDF-1.7")], "image 3 of 3: the 8 bytes are no picture"),
    "empty text": ("", "image 1 of 1: the 0 bytes are no picture"),
    "cut off": ([ONE, cut_off()], "image 2 of 2: the picture is damaged"),
    "16 bits": (encoded(PIXELS[..., 0].astype(np.uint16)), "image 1 of 1: it has more than 8 bits"),
    "16 bits of colour": (TIFF_16, "image 1 of 1: it has more than 8 bits"),
    "two pages": (PAGES, "image 1 of 1: it holds several images"),
    "near infrared": (INFRARED, "image 1 of 1: it has 4 bands, of which 1 would be lost"),
    "bomb": ([ONE, bomb()], "image 2 of 2: it has too many pixels"),
    "large": (np.zeros((4097, 4096, 3), np.uint8), f"4096 x 4097 pixels are too many: it may have {MAX_PIXELS}"),
    "many": ([np.zeros((4096, 2048, 3), np.uint8)] * 3, "the 3 images have 25165824 pixels together"),
    "fractions": (PIXELS / 255, "image 1 of 1: the pixels are float64"),
    "yes and no": (PIXELS > 5, "image 1 of 1: the pixels are bool"),
    "negative": ([PIXELS, SMALL.astype(int) - 256], "image 2 of 2: the pixels go from"),
    "above 255": ((PIXELS.astype(int) + 256).tolist(), "must be within 0 to 255"),
    "grey": (PIXELS[..., 0], "shape (13, 17) is no image"),
    "channels first": (np.moveaxis(PIXELS, 2, 0), "shape (3, 13, 17) is no image"),
    "ragged": ([[[1, 2, 3], [1, 2]]], "they differ in length"),
    "no pixels": (PIXELS[:0], "shape (0, 17, 3) is no image"),
    "empty picture": (Image.new("RGB", (0, 3)), "a value of type Image"),
    "other field": ({"input": [ONE]}, "there is no field \"image\" among 'input'"),
    "other column": (pd.DataFrame({"photo": [ONE]}), "there is no field \"image\" among 'photo'"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_picture_is_refused_in_one_short_sentence(kind: str) -> None:
    given, message = GARBAGE[kind]
    with pytest.raises(Refused) as refusal:
        model().predict(given)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 200
    assert refusal.value.get_http_status_code() == 400


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(Refused, match="encoding='jpg' is not known: it is arrays or png"):
        model().predict(ONE, {"encoding": "jpg"})


def test_a_picture_that_becomes_huge_is_refused() -> None:
    strip = np.zeros((1, 2000, 3), np.uint8)
    with pytest.raises(Refused, match="2000 x 1 pixels are too long and thin: with its shorter side resized to 128"):
        model(resize=128).predict(strip)
    check(model().predict(strip), strip)


def test_many_classes_leave_fewer_pixels() -> None:
    """What the network gives is bounded, not only what it is given."""
    predictor = Predictor(lambda images: images.float().repeat(1, 50, 1, 1), None, "bilinear")
    many = ServedModel(predictor, [str(index) for index in range(150)], [[0, 0, 0]] * 150, None)
    most = MAX_LOGITS // 150
    with pytest.raises(Refused, match=f"for 150 classes: as the network sees it, it may have {most} pixels"):
        many.predict(np.zeros((1400, most // 1400 + 1, 3), np.uint8))
    assert many.predict(np.zeros((20, 30, 3), np.uint8))[0]["height"] == 20


def test_the_server_s_copy_of_the_request_stays_out_of_the_answer() -> None:
    refused = Refused("image 1 of 1: no")
    refused.message = f"Failed to predict data '{ONE * 100}'. \nError: {refused.message}"  # as the server does
    answer = json.loads(refused.serialize_as_json())
    assert answer["message"] == "image 1 of 1: no"
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"


def test_a_model_that_has_diverged_answers_no_classes_but_why() -> None:
    diverged = model()
    diverged.predictor.model = lambda images: (images.float() / 100).masked_fill(images == images.max(), np.nan)
    with pytest.raises(Refused, match="image 1 of 1: the model gives no class to .* its logits are NaN or infinite"):
        diverged.predict(PIXELS)
