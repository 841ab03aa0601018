"""The model behind `mlflow.pyfunc` and `mlflow models serve`: images in, classes and confidence out.

This file is copied into every logged model (`flavor.SHIPPED`) and imports only other copied modules.
"""

import base64
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from PIL import Image
from safetensors.torch import load_file

from segmentation.calibration.calibrators import build as build_calibrator
from segmentation.io.channels import Raster
from segmentation.models.model_code import read_code
from segmentation.models.segmenter import RGB, assemble
from segmentation.prediction.predictor import Prediction, Predictor
from segmentation.prediction.views import Views
from studies.base.checksum import CHECKSUM, MODEL_CODE, WEIGHTS, checksum
from studies.models.request import MAX_PIXELS, Expected, Opened, RequestError, decode_image, listed_images, open_image

MAX_LOGITS = 2**28
"""Largest number of logits of an image at the model's input size, classes times pixels: they take a gigabyte."""
DIGITS = 4
"""Decimals of a confidence; more would make the JSON half as long again."""
ENCODINGS = ("arrays", "png")
VOID, VOID_COLOUR = 255, [224, 224, 224]
"""Class index of pixels of too little confidence, and their colour in a palette image."""


class Refused(MlflowException):
    """A request cannot be answered; the message names the image and what to do. HTTP status 400."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """Return the body of the answer, without the request: the server puts it before the message, megabytes long."""
        self.message = str(self)
        return super().serialize_as_json()


class ServedModel:
    """A model with its preparation of images, class names and palette."""

    def __init__(
        self,
        predictor: Predictor,
        class_names: Sequence[str],
        palette: Sequence[Sequence[int]],
        calibration: str | None,
    ) -> None:
        """Create a served model.

        Args:
            predictor: the network and the preparation of its input.
            class_names: by index.
            palette: red, green and blue, 0 to 255, of each class.
            calibration: method of the post-hoc calibration, or None.
        """
        self.predictor = predictor
        self.class_names = list(class_names)
        self.palette = [value for colour in palette for value in colour]
        self.calibration = calibration

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Predict each image at its own size.

        Args:
            data: an image or a list of images: base64 text or bytes of a PNG or JPEG file, pixels `(H, W, 3)` uint8, or
                a `PIL.Image`; pixels `(B, H, W, 3)`; a data frame with such a column `image`.
            params: `encoding`, which is `arrays` or `png`; `tile`, `overlap`, `tile_resize`, `scales` and `flip`, see
                `Views`; `min_confidence`: the class of pixels of less confidence is 255.

        Returns:
            For each image its `height` and `width`, `class_names` by index, `calibration`, and
            with `arrays`: `classes`, `(H, W)` uint8, and `confidence`, `(H, W)` in [0, 1], rounded;
            with `png`: `classes_png` and `confidence_png`, base64 of an 8-bit palette image and an 8-bit greyscale
            image, in which 255 is a confidence of 1.

        Raises:
            Refused: `data` or `params` hold something else.
        """
        given = dict(params or {})
        encoding = given.get("encoding", ENCODINGS[0])
        if encoding not in ENCODINGS:
            raise Refused(f"encoding={encoding!r:.40} is unknown: it must be {' or '.join(ENCODINGS)}")
        views, least = _views(given), _min_confidence(given)
        try:
            encoded = listed_images(data)
            labels = [f"image {number} of {len(encoded)}" for number in range(1, len(encoded) + 1)]
            takes = Expected(self.predictor.channels, self.predictor.bits)
            opened = [open_image(image, label, takes) for image, label in zip(encoded, labels, strict=True)]
            self._check_sizes(opened, labels, views)
            images = [decode_image(image, label, takes) for image, label in zip(opened, labels, strict=True)]
        except RequestError as error:
            raise Refused(str(error)) from error
        predictor = self.predictor.with_views(views)
        return [self._record(predictor, *pair, encoding, least) for pair in zip(images, labels, strict=True)]

    def get_raw_model(self) -> "ServedModel":
        """Return this object, for `PyFuncModel.get_raw_model`: its `predict` accepts images without the field name."""
        return self

    def _check_sizes(self, images: Sequence[Raster | Opened], labels: Sequence[str], views: Views) -> None:
        """Refuse images that would take too much memory or time, before any is decoded."""
        for image, label in zip(images, labels, strict=True):
            size, pixels = f"{image.width} x {image.height} pixels", image.width * image.height
            if not pixels:
                raise RequestError(f"{label}: it has no pixels ({size})")
            if pixels > MAX_PIXELS:
                raise RequestError(
                    f"{label}: {size} are too many: an image may have {MAX_PIXELS}. Send it smaller{self._own_size()}"
                )
            if not views.is_plain:
                self._check_views(image, label, views)
                continue
            resized = self._resized_pixels(image)
            if resized > MAX_PIXELS:
                raise RequestError(
                    f"{label}: {size} are too long and thin: with its shorter side resized to {self.predictor.resize}, "
                    f"the model's input size, it would have more than {MAX_PIXELS} pixels"
                )
            if resized * len(self.class_names) > MAX_LOGITS:
                raise RequestError(
                    f"{label}: {size} are too many for {len(self.class_names)} classes: at the model's input size an "
                    f"image may have {MAX_LOGITS // len(self.class_names)} pixels, and this one has {round(resized)}"
                )
        total = sum(image.width * image.height for image in images)
        if total > MAX_PIXELS:
            raise RequestError(
                f"the {len(images)} images have {total} pixels in total; a request may have {MAX_PIXELS}: "
                f"send fewer images"
            )
        if not views.is_plain:
            seen = sum(views.model_pixels(*image.size, self.predictor.resize) for image in images)
            if seen > MAX_PIXELS:
                raise RequestError(
                    f"the model would see {seen} pixels of the {len(images)} images with {views.described()}; a "
                    f"request may have {MAX_PIXELS}: send fewer images"
                )
            return
        total_resized = sum(map(self._resized_pixels, images))
        if total_resized > MAX_PIXELS:
            raise RequestError(
                f"the {len(images)} images would have {round(total_resized)} pixels in total with their shorter sides "
                f"resized to {self.predictor.resize}, the model's input size; a request may have {MAX_PIXELS}: send "
                f"fewer images"
            )

    def _check_views(self, image: Raster | Opened, label: str, views: Views) -> None:
        """Refuse an image whose views would take too much memory or time."""
        size = f"{image.width} x {image.height} pixels"
        seen = views.model_pixels(*image.size, self.predictor.resize)
        if seen > MAX_PIXELS:
            raise RequestError(
                f"{label}: {size} are too many with {views.described()}: the model would see {seen} pixels, and it may "
                f"see {MAX_PIXELS} of a request"
            )
        held, most = views.held_pixels(*image.size, self.predictor.resize), MAX_LOGITS // len(self.class_names)
        if held > most:
            raise RequestError(
                f"{label}: {size} are too many for {len(self.class_names)} classes with {views.described()}: {held} "
                f"pixels would be predicted at a time, and {most} may be"
            )

    def _own_size(self) -> str:
        """Return what a smaller image costs: nothing down to the model's input size."""
        side = self.predictor.resize
        return "" if side is None else f": the model resizes the shorter side to {side} pixels before it predicts"

    def _resized_pixels(self, image: Raster | Opened) -> float:
        """Return the number of pixels of an image at the model's input size."""
        shorter, longer = sorted(image.size)
        return shorter * longer if self.predictor.resize is None else self.predictor.resize**2 * longer / shorter

    def _record(
        self, predictor: Predictor, image: Raster, label: str, encoding: str, min_confidence: float | None
    ) -> dict[str, Any]:
        """Predict one image, and return its record of the answer."""
        try:
            (prediction,) = predictor([image])
        except ValueError as error:  # logits that are NaN
            raise Refused(f"{label}: {error}") from error
        if min_confidence is not None:
            below = prediction.confidence < min_confidence
            prediction = prediction._replace(classes=np.where(below, np.uint8(VOID), prediction.classes))
        record = {
            "height": image.height, "width": image.width, "class_names": self.class_names,
            "calibration": self.calibration,
        }  # fmt: skip
        return record | (self._as_png(prediction) if encoding == "png" else _as_arrays(prediction))

    def _as_png(self, prediction: Prediction) -> dict[str, str]:
        classes = Image.fromarray(prediction.classes)
        has_void = bool((prediction.classes == VOID).any())
        unused = VOID_COLOUR * (VOID + 1 - len(self.class_names)) if has_void else []
        classes.putpalette(self.palette + unused)
        confidence = Image.fromarray(np.round(prediction.confidence * 255).astype(np.uint8))
        return {"classes_png": _png(classes), "confidence_png": _png(confidence)}


def _views(params: dict[str, Any]) -> Views:
    """Return the views that a request asks for.

    Raises:
        Refused: a value is not allowed.
    """
    given = {name: params[name] for name in ("flip", "tile", "overlap", "tile_resize") if name in params}
    try:
        scales = tuple(float(scale) for scale in params.get("scales", (1.0,)))
        if not scales:
            raise Refused("scales=[] is empty: give at least one number, such as 1")
        views = Views(**given, scales=scales)
        if mistakes := views.mistakes():
            raise Refused("; ".join(mistakes))
    except (TypeError, ValueError) as error:
        raise Refused(f"params of a wrong type, {params!s:.80}: {error}") from error
    return views


def _min_confidence(params: dict[str, Any]) -> float | None:
    """Return the confidence below which pixels are void.

    Raises:
        Refused: it is not between 0 and 1.
    """
    least = params.get("min_confidence")
    if least is not None and not (isinstance(least, (int, float)) and 0 <= least <= 1):
        raise Refused(f"min_confidence={least!r:.40} is out of range; it must be between 0 and 1, or null")
    return least


def _as_arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    # float64, since JSON would spell out all digits of a rounded float32
    confidence = np.round(prediction.confidence.astype(np.float64), DIGITS)
    return {"classes": prediction.classes, "confidence": confidence}


def _png(image: Image.Image) -> str:
    """Return an image as base64 of a PNG file."""
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _load_pyfunc(path: str) -> ServedModel:
    """Build a logged model from its folder, for `mlflow.pyfunc.load_model`. Nothing is unpickled.

    The code of a user's own model runs, after a line that says so.

    Raises:
        ValueError: the file with the tensors, or that code, is not the one that was logged.
    """
    metadata, weights = Model.load(Path(path)).metadata, Path(path) / WEIGHTS
    assert metadata is not None
    if metadata[CHECKSUM] != checksum(weights):
        raise ValueError(f"{weights} is damaged: it is not the file that was logged (SHA-256 differs)")
    config, calibration, names = metadata["config"], metadata["calibration"], metadata["class_names"]
    code, auxiliary, channels = None, config["auxiliary_loss"] != 0, config.get("channels", RGB)
    if metadata.get(MODEL_CODE) is not None:
        code = read_code(metadata[MODEL_CODE], Path(path) / "code")
        print(f"This model runs code of its own: {code.described()} ({code.function})", file=sys.stderr)
    network = assemble(config["model"], config["normalization"], len(names), auxiliary, channels, code)
    if calibration:
        network.calibrator = build_calibrator(calibration["method"], len(names), network.measured())
    network.load_state_dict(load_file(weights))
    bits = int(network.bits)
    predictor = Predictor(
        network.eval(), config["resize"], config["interpolation"], channels=channels, bits=bits
    )  # fmt: skip
    return ServedModel(predictor, names, metadata["palette"], calibration["method"] if calibration else None)
