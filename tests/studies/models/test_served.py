"""What a served model answers. Its network returns the three colours as logits, so the answer is known."""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmentation.prediction.predictor import Predictor
from segmentation.prediction.views import Views
from studies.models.request import MAX_PIXELS
from studies.models.served import MAX_LOGITS, Refused, ServedModel
from tests.segmentation.prediction.test_predictor import random_image
from tests.studies.models.test_request import ONE, PIXELS, SMALL


def model(resize: int | None = None, calibration: str | None = None) -> ServedModel:
    predictor = Predictor(lambda images: images.float() / 100, resize, "bilinear")
    palette = [[250, 0, 0], [0, 240, 0], [0, 0, 230]]
    return ServedModel(predictor, ["red", "green", "blue"], palette, calibration)


def expected(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and confidence by the definition of the softmax."""
    powers = np.exp(pixels.astype(np.float64) / 100)
    probabilities = powers / powers.sum(2, keepdims=True)
    return probabilities.argmax(2), probabilities.max(2)


def test_each_image_is_predicted_at_its_own_size() -> None:
    records = model().predict([ONE, SMALL])
    for record, pixels in zip(records, (PIXELS, SMALL), strict=True):
        classes, confidence = expected(pixels)
        assert (record["height"], record["width"]) == pixels.shape[:2]
        np.testing.assert_array_equal(record["classes"], classes)
        np.testing.assert_allclose(record["confidence"], confidence, atol=0.5e-4 + 1e-6)
        assert record["class_names"] == ["red", "green", "blue"]


def test_the_answer_may_be_png() -> None:
    (record,) = model().predict(ONE, {"encoding": "png"})
    classes, confidence = expected(PIXELS)
    assert not {"classes", "confidence"} & record.keys()
    with Image.open(BytesIO(base64.b64decode(record["classes_png"]))) as mask:
        np.testing.assert_array_equal(np.asarray(mask), classes)
        assert mask.getpalette()[:9] == [250, 0, 0, 0, 240, 0, 0, 0, 230]
    with Image.open(BytesIO(base64.b64decode(record["confidence_png"]))) as image:
        assert image.mode == "L"
        np.testing.assert_allclose(np.asarray(image) / 255, confidence, atol=0.5 / 255 + 1e-6)


def test_the_answer_names_the_calibration() -> None:
    assert model().predict(ONE)[0]["calibration"] is None
    assert model(calibration="vector").predict(ONE)[0]["calibration"] == "vector"


def test_confidences_have_four_decimals_in_json() -> None:
    written = json.dumps(model().predict(ONE)[0]["confidence"].tolist())
    assert max(len(number) for number in written.replace("[", "").replace("]", "").split(", ")) == len("0.1234")


def test_windows_scales_and_flips_give_what_the_predictor_gives() -> None:
    served = model(resize=40)
    image = random_image((90, 60), 0)
    asked = {"tile": 32, "overlap": 0.5, "tile_resize": 50, "scales": [0.75, 1.0], "flip": True}
    views = Views(True, (0.75, 1.0), 32, 0.5, 50)
    (prediction,) = Predictor(served.predictor.model, 40, "bilinear", views=views)([image])
    (record,) = served.predict(image, asked)
    np.testing.assert_array_equal(record["classes"], prediction.classes)
    np.testing.assert_allclose(record["confidence"], prediction.confidence, atol=0.5e-4 + 1e-6)
    (plain,) = served.predict(image)
    assert abs(plain["confidence"] - record["confidence"]).max() > 0.001


def test_pixels_of_little_confidence_are_void() -> None:
    _, confidence = expected(PIXELS)
    least = float(np.median(confidence))
    (record,) = model().predict(ONE, {"min_confidence": least})
    (plain,) = model().predict(ONE)
    np.testing.assert_array_equal(record["classes"], np.where(confidence < least, 255, plain["classes"]))
    np.testing.assert_array_equal(record["confidence"], plain["confidence"])
    (as_png,) = model().predict(ONE, {"min_confidence": least, "encoding": "png"})
    with Image.open(BytesIO(base64.b64decode(as_png["classes_png"]))) as mask:
        np.testing.assert_array_equal(np.asarray(mask), record["classes"])
        assert mask.getpalette()[-3:] == [224, 224, 224]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tile": 8}, "tile=8 is out of range"),
        ({"overlap": 0.5}, "overlap=0.5 has no effect without tile"),
        ({"scales": []}, "scales=\\[\\] is empty"),
        ({"scales": [9.0]}, "scales=9 are out of range"),
        ({"scales": "big"}, "params of a wrong type"),
        ({"tile": "wide"}, "params of a wrong type"),
        ({"min_confidence": 2}, "min_confidence=2 is out of range"),
        ({"tile": 64, "overlap": 0.9}, "would see .* pixels, and it may see 16777216"),
    ],
)
def test_wrong_params_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        model().predict(np.zeros((1000, 2000, 3), np.uint8), params)


REFUSED: dict[str, tuple[Any, str]] = {
    "not an image": ([ONE, "hello!"], "image 2 of 2: the text is not base64"),
    "large": (np.zeros((4097, 4096, 3), np.uint8), f"an image may have {MAX_PIXELS}. Send it smaller"),
    "many": ([np.zeros((4096, 2048, 3), np.uint8)] * 3, "the 3 images have 25165824 pixels in total"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_is_an_error_of_the_client(kind: str) -> None:
    data, message = REFUSED[kind]
    with pytest.raises(Refused) as refusal:
        model().predict(data)
    assert message in str(refusal.value)
    assert refusal.value.get_http_status_code() == 400


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(Refused, match="encoding='jpg'.*arrays or png"):
        model().predict(ONE, {"encoding": "jpg"})


def test_an_image_that_becomes_huge_when_resized_is_refused() -> None:
    strip = np.zeros((1, 2000, 3), np.uint8)
    with pytest.raises(Refused, match="2000 x 1 pixels .* resized to 128"):
        model(resize=128).predict(strip)
    assert model().predict(strip)[0]["width"] == 2000


def test_many_classes_leave_fewer_pixels() -> None:
    """The number of logits is limited, not only the number of pixels."""
    predictor = Predictor(lambda images: images.float().repeat(1, 50, 1, 1), None, "bilinear")
    many = ServedModel(predictor, [str(index) for index in range(150)], [[0, 0, 0]] * 150, None)
    most = MAX_LOGITS // 150
    with pytest.raises(Refused, match=f"for 150 classes: .* may have {most} pixels"):
        many.predict(np.zeros((1400, most // 1400 + 1, 3), np.uint8))
    assert many.predict(np.zeros((20, 30, 3), np.uint8))[0]["height"] == 20


def test_the_answer_to_a_refused_request_does_not_repeat_the_request() -> None:
    refused = Refused("image 1 of 1: no")
    refused.message = f"Failed to predict data '{ONE * 100}'. \nError: {refused.message}"  # as the server does
    answer = json.loads(refused.serialize_as_json())
    assert answer["message"] == "image 1 of 1: no"
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"


def test_logits_that_are_not_finite_are_refused() -> None:
    diverged = model()
    diverged.predictor.model = lambda images: (images.float() / 100).masked_fill(images == images.max(), np.nan)
    with pytest.raises(Refused, match="image 1 of 1: .*NaN"):
        diverged.predict(PIXELS)
