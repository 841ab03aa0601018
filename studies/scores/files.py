"""The files in which a run keeps its scores, read without trust: all that is used later is checked here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentation.classes import VOID, Classes
from segmentation.errors import InputError
from segmentation.io.names import is_plain
from segmentation.io.npz import stored_arrays
from studies.models.stored import checked_colour, recorded_config

LARGEST_RECORD = 2**26
"""Bytes of the JSON file, of which 100 kB are usual."""
TEXTS = ("dataset", "split", "interpolation", "precision")
NUMBERS = ("bins", "boundary_width", "images", "pixels")


class Record(NamedTuple):
    """What a run says of its scores."""

    protocol: dict[str, Any]
    """The rules by which they were measured, see `split_report.protocol`."""
    origin: dict[str, Any]
    """The network that was scored, see `StoredModel.origin`."""
    labels: Classes


@dataclass(frozen=True)
class Example:
    """One stored image with what the network made of it."""

    image: np.ndarray
    """`(H, W, 3)` uint8."""
    truth: np.ndarray
    """`(H, W)` uint8 class indices, 255 is void."""
    predicted: np.ndarray
    """`(H, W)` uint8 class indices."""


def read_record(file: Path) -> Record:
    """Read `reliability/SPLIT.json`.

    Raises:
        InputError: it is damaged, or of another version.
    """
    try:
        if file.stat().st_size > LARGEST_RECORD:
            raise InputError(f"it has more than {LARGEST_RECORD:,} bytes")
        record = json.loads(file.read_text(encoding="utf-8"))
        protocol, origin = record["protocol"], record["origin"]
        _check(protocol, dict.fromkeys(TEXTS, str) | dict.fromkeys(NUMBERS, int))
        resolution = protocol["resolution"]
        if not isinstance(resolution, str):
            height, width = resolution
            _check({"height": height, "width": width}, {"height": int, "width": int})
        recorded_config(origin["config"])
        _check(origin, {"epoch": int})
        if not isinstance(origin["trained_in_run"], str | None):
            raise InputError("trained_in_run is no run")
        if origin["calibration"] is not None:
            _check(origin["calibration"], {"method": str, "fingerprint": str})
        labels = Classes(tuple(protocol["classes"]), tuple(checked_colour(colour) for colour in record["palette"]))
        return Record(protocol, origin, labels)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise InputError(f"{file.name} is damaged or of another version: {error}") from error


def read_digests(file: Path) -> dict[str, str]:
    """The hash of each image's files by its name, in the order of the scores in `reliability/SPLIT_histograms.npz`.

    Raises:
        InputError: the file is damaged, or names an image twice.
    """
    with stored_arrays(file) as stored:
        arrays = stored.read(("name", "digest"))
        if any(array.ndim != 1 or array.dtype.kind != "U" for array in arrays.values()):
            raise InputError(f"{file.name} is damaged: its names are no texts")
        found = dict(zip(arrays["name"].tolist(), arrays["digest"].tolist(), strict=True))
        if len(found) < len(arrays["name"]) or not all(map(is_plain, found)):
            raise InputError(f"{file.name} is damaged: it names an image twice, or strangely")
    return found


def read_examples(file: Path, classes: int) -> dict[str, Example]:
    """The images of `examples/SPLIT.npz` by name.

    Raises:
        InputError: the file is damaged, or an image is not as it should be.
    """
    with stored_arrays(file) as stored:
        names = stored.read(("name",))["name"]
        if names.ndim != 1 or names.dtype.kind != "U":
            raise InputError(f"{file.name} is damaged: its names are no texts")
        found = {}
        for place, name in enumerate(names.tolist()):
            parts = [f"{part}_{place}" for part in ("image", "truth", "predicted")]
            image, truth, predicted = stored.read(parts).values()
            one_size = image.shape == (*truth.shape, 3) and predicted.shape == truth.shape and truth.ndim == 2
            of_bytes = all(array.dtype == np.uint8 for array in (image, truth, predicted))
            if not one_size or not of_bytes or not truth.size or not is_plain(name):
                raise InputError(f"{file.name} is damaged: {name!r:.80} is no image with two masks")
            if not ((truth < classes) | (truth == VOID)).all() or not (predicted < classes).all():
                raise InputError(f"{file.name} is damaged: {name!r:.80} has more classes than the {classes} there are")
            found[name] = Example(image, truth, predicted)
    return found


def _check(values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise an `InputError` unless the values are of these types; whole numbers are not negative."""
    for name, kind in kinds.items():
        if type(values[name]) is not kind or (kind is int and values[name] < 0):
            raise InputError(f"{name}={values[name]!r:.40} is not what it can be")
