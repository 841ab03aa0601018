"""What a logged model does for `mlflow.pyfunc` and `mlflow models serve`: pictures in, classes and confidence out.

A copy goes along with every logged model, beside those of `prediction.py` and `pixels.py`, for a server that has
nothing else of this project: it imports none of the rest.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image

from segmentation.io.pixels import FORMATS, UnfitError, color_image
from segmentation.prediction.predictor import Prediction, Predictor

MAX_PIXELS = 2**24
"""Of all pictures of a request together, at their own size and as the network sees them."""
MAX_BYTES = 5 * MAX_PIXELS
"""Of all files in a request together: more than so many pixels take when nothing is compressed."""
MAX_IMAGES = 1024
"""In a request; each answer is some hundred bytes at least, however small the picture."""
SPACES = b" \t\n\r\v\f"
MAX_LOGITS = 2**28
"""Classes times pixels of a picture as the network sees it: its logits then take a gigabyte."""
COLUMN = "image"
"""The field of a request, or the column of a data frame, that holds pictures."""
DIGITS = 4
"""Decimals of a confidence; more would make the JSON half as long again."""
ENCODINGS = ("arrays", "png")
ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


class Refused(MlflowException):
    """A request that cannot be answered as it is; the message says which picture, and what to do. HTTP status 400."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """What the server answers; it has put the whole request in front of the message, megabytes perhaps."""
        self.message = str(self)
        return super().serialize_as_json()


class ServedModel:
    """A network with all that is needed to use it on pictures as people have them."""

    def __init__(
        self,
        predictor: Predictor,
        class_names: Sequence[str],
        palette: Sequence[Sequence[int]],
        calibration: str | None,
    ) -> None:
        """Take a network and what its output means.

        Args:
            predictor: the network and how its pictures are prepared.
            class_names: by index.
            palette: red, green and blue, 0 to 255, of each class.
            calibration: how the confidence was mended, or None.
        """
        self.predictor = predictor
        self.class_names = list(class_names)
        self.palette = [value for colour in palette for value in colour]
        self.calibration = calibration

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Predict each picture at its own size.

        Args:
            data: a picture or a list of them: base64 text or bytes of a PNG or JPEG file, pixels `(H, W, 3)` uint8,
                or a `PIL.Image`; pixels `(B, H, W, 3)`; a data frame with such a column `image`.
            params: `encoding`, which is `arrays` or `png`.

        Returns:
            For each picture its `height` and `width`, `class_names` by index, `calibration`, and
            with `arrays`: `classes`, `(H, W)` uint8, and `confidence`, `(H, W)` in [0, 1], rounded;
            with `png`: `classes_png` and `confidence_png`, base64 of greyscale or palette pictures of 8 bits, in
            which 255 is a confidence of 1.

        Raises:
            Refused: there is something else in `data` or `params`.
        """
        encoding = (params or {}).get("encoding", ENCODINGS[0])
        if encoding not in ENCODINGS:
            raise Refused(f"encoding={encoding!r:.40} is not known: it is {' or '.join(ENCODINGS)}")
        given = _listed(data)
        if not given:
            raise Refused("there is no image: the list is empty")
        if len(given) > MAX_IMAGES:
            raise Refused(f"{len(given)} images are too many: a request may have {MAX_IMAGES}")
        places = [f"image {number} of {len(given)}" for number in range(1, len(given) + 1)]
        _check_bytes(given)
        opened = [_opened(image, place) for image, place in zip(given, places, strict=True)]
        self._check_sizes(opened, places)
        pictures = [_decoded(picture, place) for picture, place in zip(opened, places, strict=True)]
        return [self._answer(*pair, encoding) for pair in zip(pictures, places, strict=True)]

    def get_raw_model(self) -> "ServedModel":
        """This object, for `PyFuncModel.get_raw_model`: its `predict` takes more than a column called `image`."""
        return self

    def _check_sizes(self, opened: Sequence[Image.Image], places: Sequence[str]) -> None:
        """Refuse what would take too much memory, before anything is decoded."""
        for picture, place in zip(opened, places, strict=True):
            size, pixels = f"{picture.width} x {picture.height} pixels", picture.width * picture.height
            if not pixels:
                raise Refused(f"{place}: {size} are none")
            if pixels > MAX_PIXELS:
                raise Refused(f"{place}: {size} are too many: it may have {MAX_PIXELS}")
            seen = self._seen(picture)
            if seen > MAX_PIXELS:
                raise Refused(
                    f"{place}: {size} are too long and thin: with its shorter side resized to {self.predictor.resize}, "
                    f"as the network needs it, it would have more than {MAX_PIXELS} pixels"
                )
            if seen * len(self.class_names) > MAX_LOGITS:
                raise Refused(
                    f"{place}: {size} are too many for {len(self.class_names)} classes: as the network sees it, it may "
                    f"have {MAX_LOGITS // len(self.class_names)} pixels, and would have {round(seen)}"
                )
        total = sum(picture.width * picture.height for picture in opened)
        if total > MAX_PIXELS:
            raise Refused(
                f"the {len(opened)} images have {total} pixels together, and one request may have {MAX_PIXELS}: "
                f"send fewer at a time"
            )
        seen = sum(map(self._seen, opened))
        if seen > MAX_PIXELS:
            raise Refused(
                f"the {len(opened)} images would have {round(seen)} pixels together with their shorter sides resized "
                f"to {self.predictor.resize}, as the network needs them, and one request may have {MAX_PIXELS}: send "
                f"fewer at a time"
            )

    def _seen(self, picture: Image.Image) -> float:
        """Pixels of a picture as the network sees it."""
        shorter, longer = sorted(picture.size)
        return shorter * longer if self.predictor.resize is None else self.predictor.resize**2 * longer / shorter

    def _answer(self, picture: Image.Image, place: str, encoding: str) -> dict[str, Any]:
        """The record of one picture."""
        try:
            (prediction,) = self.predictor([picture])
        except AssertionError as error:  # the exported program's guards, which fail below about 17 pixels
            raise Refused(
                f"{place}: {picture.width} x {picture.height} pixels are too few for this network, which sees "
                f"pictures at {self.predictor.resize or 'their own size'}; enlarge it"
            ) from error
        except ValueError as error:  # logits that are NaN
            raise Refused(f"{place}: {error}") from error
        about = {
            "height": picture.height, "width": picture.width, "class_names": self.class_names,
            "calibration": self.calibration,
        }  # fmt: skip
        return about | (self._as_png(prediction) if encoding == "png" else _as_arrays(prediction))

    def _as_png(self, prediction: Prediction) -> dict[str, str]:
        classes = Image.fromarray(prediction.classes)
        classes.putpalette(self.palette)
        confidence = Image.fromarray(np.round(prediction.confidence * 255).astype(np.uint8))
        return {"classes_png": _png(classes), "confidence_png": _png(confidence)}


def _as_arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    # float64, since JSON would spell out all digits of a rounded float32
    confidence = np.round(prediction.confidence.astype(np.float64), DIGITS)
    return {"classes": prediction.classes, "confidence": confidence}


def _png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _listed(data: Any) -> list[Any]:
    """The pictures in whatever MLflow hands over: a data frame or a column of one, or what it makes of JSON."""
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        data = data.to_dict(orient="list")
    elif hasattr(data, "to_list"):
        data = data.to_list()
    if isinstance(data, dict):
        data = _column(data)
        if isinstance(data, dict):
            raise Refused('the field "image" holds fields again: it must hold pictures')
        return _listed(data)
    if isinstance(data, np.ndarray) and data.dtype.kind in "OSU":
        data = data.tolist()
    if isinstance(data, np.ndarray):
        return [data] if data.ndim < 4 else list(data)
    if isinstance(data, (list, tuple)):
        if _depth(data) == 3:
            return [data]
        return _flat(_column(image) if isinstance(image, dict) else image for image in data)
    return [data]


def _flat(images: Iterable[Any]) -> list[Any]:
    """The pictures, with those of each list of texts: MLflow makes one row of a field that holds such a list."""
    flat: list[Any] = []
    for image in images:
        texts = isinstance(image, (list, tuple)) and all(isinstance(each, (str, np.str_)) for each in image)
        flat += image if texts else [image]
    return flat


def _column(row: dict[Any, Any]) -> Any:
    """The value of `image`, or of the one column of a data frame whose columns have no names."""
    for name in (COLUMN, 0):
        if name in row:
            return row[name]
    names = ", ".join(f"{str(name)!r:.40}" for name in list(row)[:5])
    raise Refused(
        f'there is no field "image" among {names or "no fields"}: send {{"inputs": ["BASE64", ...]}}, or a data frame '
        f"with a column image"
    )


def _depth(data: Any) -> int:
    """How deep the first number is nested in lists; 0 where there is none."""
    depth = 0
    while isinstance(data, (list, tuple)) and data:
        data, depth = data[0], depth + 1
    return depth if isinstance(data, (int, float)) else 0


def _opened(image: Any, place: str) -> Image.Image:
    """A picture of known size, of which a file's pixels are still to be decoded."""
    image = _unwrapped(image)
    if isinstance(image, Image.Image) and image.width and image.height:
        return image
    if isinstance(image, str):
        image = _bytes(image, place)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _file(bytes(image), place)
    if isinstance(image, (list, tuple)):
        return _pixels(_array(image, place), place)
    if isinstance(image, np.ndarray):
        return _pixels(image, place)
    raise Refused(
        f"{place}: a value of type {type(image).__name__} is no image: give the base64 of a PNG or JPEG file, or "
        f"pixels (H, W, 3) uint8"
    )


def _check_bytes(given: Sequence[Any]) -> None:
    """Refuse files and texts that are too long together, before any is decoded."""
    files = [image for image in map(_unwrapped, given) if isinstance(image, (str, bytes, bytearray, memoryview))]
    total = sum(len(file) * 3 // 4 if isinstance(file, str) else len(file) for file in files)
    if total > MAX_BYTES:
        raise Refused(
            f"the {len(given)} images have {total} bytes together, and one request may have {MAX_BYTES}: send fewer at "
            f"a time, or compress them"
        )


def _unwrapped(image: Any) -> Any:
    """A text as itself, and not as an array of one."""
    return image.item() if isinstance(image, np.ndarray) and image.ndim == 0 else image


def _array(rows: Sequence[Any], place: str) -> np.ndarray:
    """Pixels from nested lists; numpy alone would make texts among them as long as the longest is."""
    wrong = f"{place}: the lists are no pixels (H, W, 3): they differ in length or depth"
    width = len(rows[0]) if rows and isinstance(rows[0], (list, tuple, np.ndarray)) else 0
    if len(rows) * width > MAX_PIXELS:
        raise Refused(f"{place}: {width} x {len(rows)} pixels are too many: it may have {MAX_PIXELS}")
    try:
        values = np.array(rows, dtype=object)
        if values.ndim != 3:
            raise Refused(
                wrong if width else f"{place}: lists of shape {values.shape} are no image: it must be (H, W, 3)"
            )
        kinds = set(map(type, values.ravel()))
        if not all(issubclass(kind, (int, float, np.number, np.bool_)) for kind in kinds):
            raise Refused(wrong)
        whole = all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds)
        return values.astype(np.int64 if whole else bool if kinds <= {bool, np.bool_} else np.float64)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise Refused(wrong) from error


def _bytes(text: str, place: str) -> bytes:
    """What base64 text stands for; a `data:` prefix and line breaks are allowed."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # without spaces at once, since a list of what is between them may take thirty times as much memory
        return base64.b64decode(text.encode("ascii").translate(None, SPACES), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(
            f"{place}: the text is not base64 ({error!s:.80}): send a file's content, no path and no address"
        ) from error


def _file(content: bytes, place: str) -> Image.Image:
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"{place}: it has too many pixels; it may have {MAX_PIXELS}") from error
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise Refused(
            f"{place}: the {len(content)} bytes are no picture that can be read: it may be {', '.join(FORMATS)}"
        ) from error


def _pixels(pixels: np.ndarray, place: str) -> Image.Image:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise Refused(f"{place}: an array of shape {pixels.shape} is no image: it must be (H, W, 3)")
    if pixels.dtype.kind not in "iu":
        raise Refused(f"{place}: the pixels are {pixels.dtype}: they must be integers, 0 to 255")
    lowest, highest = pixels.min(), pixels.max()
    if lowest < 0 or highest > 255:
        raise Refused(f"{place}: the pixels go from {lowest} to {highest}: they must be within 0 to 255")
    return Image.fromarray(pixels.astype(np.uint8))


def _decoded(picture: Image.Image, place: str) -> Image.Image:
    """The image in RGB, read as in training and prediction."""
    try:
        return color_image(picture)
    except UnfitError as error:
        raise Refused(f"{place}: it {error}") from error
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise Refused(f"{place}: the picture is damaged: {error!s:.80}") from error


@contextmanager
def _without_pickle() -> Iterator[None]:
    before = os.environ.get(ALLOW_PICKLE)
    os.environ[ALLOW_PICKLE] = "false"
    try:
        yield
    finally:
        del os.environ[ALLOW_PICKLE]
        if before is not None:
            os.environ[ALLOW_PICKLE] = before


def _load_pyfunc(path: str) -> ServedModel:
    """Load a logged model from its folder, for `mlflow.pyfunc.load_model`; nothing is unpickled."""
    about = Model.load(Path(path)).metadata
    assert about is not None
    with _without_pickle():
        network = mlflow.pytorch.load_model(str(path))
    predictor = Predictor(network, about["config"]["resize"], about["config"]["interpolation"])
    calibration = about["calibration"]
    return ServedModel(
        predictor, about["class_names"], about["palette"], calibration["method"] if calibration else None
    )
