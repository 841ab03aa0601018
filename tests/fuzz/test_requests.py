"""Mangled requests to a served model."""

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segmentation.prediction.predictor import Predictor
from studies.models import request, served
from studies.models.request import MAX_BYTES, MAX_IMAGES
from studies.models.served import Refused, ServedModel
from tests.conftest import needs_camvid
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up
from tests.fuzz.test_images import mangled, photographs

pytestmark = [needs_camvid, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]
NAMED = ("image", "encoding")
FEW_PIXELS = 5_000_000
"""Limit of a request in these tests: a pixel takes some 40 bytes, and the guard allows less memory than a server."""


def model(resize: int | None) -> ServedModel:
    predictor = Predictor(lambda images: images.float() / 100, resize, "bilinear")
    return ServedModel(predictor, ["red", "green", "blue"], [[250, 0, 0], [0, 240, 0], [0, 0, 230]], None)


def check(found: list[dict[str, Any]] | None) -> None:
    for record in found or []:
        shape = record["height"], record["width"]
        if "classes" in record:
            assert record["classes"].shape == record["confidence"].shape == shape
            assert record["classes"].max() < 3
            assert 0 <= record["confidence"].min() <= record["confidence"].max() <= 1
        else:
            with Image.open(BytesIO(base64.b64decode(record["classes_png"]))) as mask:
                assert mask.size == shape[::-1]


def test_mangled_requests(
    door: Callable[[str], Door], real_images: tuple[list[bytes], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "MAX_PIXELS", FEW_PIXELS)
    monkeypatch.setattr(request, "MAX_PIXELS", FEW_PIXELS)
    door, small = door("requests"), photographs()
    models = model(None), model(8)
    for random in door.randoms():
        content = mangled([random.choice(real_images[0])] if random.random() < 0.1 else small, random)
        text = base64.b64encode(content).decode()
        if random.random() < 0.1:
            start = random.randrange(len(text) + 1)
            text = text[:start] + random.choice(("!", "=", "\n", "é", "\ud800", "\0", "/etc/passwd")) + text[start:]
        body = random.choice(
            ([text], text, {"image": [text]}, [{"image": text}], [content], [f"data:image/png;base64,{text}"])
        )
        params = random.choice((None, {}, {"encoding": "png"}, {"encoding": "arrays"}))
        check(door(lambda: random.choice(models).predict(body, params), NAMED, Refused))  # noqa: B023
    assert door.right > door.tried // 20
    assert door.refused > door.tried // 4


def test_made_up_requests(door: Callable[[str], Door]) -> None:
    door = door("requests made up")
    number = st.one_of(st.integers(0, 255), st.integers(-(2**70), 2**70), st.floats(), st.booleans())
    scalar = st.one_of(st.none(), number, st.text(max_size=8), st.binary(max_size=8), st.just("A" * 4000))
    pixel = st.lists(st.integers(0, 255), min_size=3, max_size=3)
    rows = st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(pixel, min_size=width, max_size=width), min_size=1, max_size=4)
    )
    junk = st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["image", "x"]), inner),
        max_leaves=12,
    )
    arrays = st.tuples(
        st.lists(st.integers(0, 4), max_size=5), st.sampled_from(["u1", "i8", "f4", "?", "U2", "O"])
    ).map(lambda each: np.zeros(each[0], each[1]))

    @made_up(door.name)
    @given(st.one_of(junk, st.lists(junk, max_size=4), rows, st.lists(rows, max_size=3), arrays),
           st.one_of(st.none(), st.dictionaries(st.just("encoding"), scalar, max_size=1)))  # fmt: skip
    def one(body: Any, params: Any) -> None:
        check(door(lambda: model(None).predict(body, params), NAMED, Refused))

    one()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def in_fields(depth: int) -> Any:
    value: Any = "A"
    for _ in range(depth):
        value = {"image": value}
    return value


@pytest.mark.parametrize(
    "body",
    [
        [[["x" * 10**6, *["b"] * 2000]]],
        nested(900),
        in_fields(900),
        "a " * 5_000_000,
        ["A" * (MAX_BYTES + MAX_BYTES // 2)],
        ["AAAA"] * (MAX_IMAGES + 1),
        [[[[1, 2, 3]] * 5000]] * 5000,
    ],
    ids=["a long text among short", "deep lists", "deep fields", "spaces", "bytes", "images", "pixels"],
)
def test_a_request_cannot_fill_the_memory(body: Any, door: Callable[[str], Door]) -> None:
    door = door("requests")
    assert door(lambda: model(None).predict(body), NAMED, Refused) is None
