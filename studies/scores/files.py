"""Readers of the files in which a run stores its scores. Every value that is used later is checked here."""

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
"""Most bytes of the JSON file; 100 kB are usual."""
TEXTS = ("dataset", "split", "interpolation", "precision")
NUMBERS = ("bins", "boundary_width", "images", "pixels")


class Record(NamedTuple):
    """Content of `reliability/SPLIT.json` that is used later."""

    protocol: dict[str, Any]
    """Rules of scoring, see `recording.protocol`."""
    origin: dict[str, Any]
    """The scored model, see `StoredModel.origin`."""
    labels: Classes


@dataclass(frozen=True)
class Example:
    """One stored image with its prediction."""

    image: np.ndarray
    """`(H, W, 3)` uint8."""
    truth: np.ndarray
    """`(H, W)` uint8 class indices, 255 is void."""
    predicted: np.ndarray
    """`(H, W)` uint8 class indices."""


def read_record(file: Path) -> Record:
    """Read `reliability/SPLIT.json`.

    Raises:
        InputError: the file is damaged or of another version.
    """
    try:
        if file.stat().st_size > LARGEST_RECORD:
            raise InputError(f"larger than {LARGEST_RECORD:,} bytes")
        record = json.loads(file.read_text(encoding="utf-8"))
        protocol, origin = record["protocol"], record["origin"]
        _check(protocol, dict.fromkeys(TEXTS, str) | dict.fromkeys(NUMBERS, int))
        resolution = protocol["resolution"]
        if not isinstance(resolution, str):
            height, width = resolution
            _check({"height": height, "width": width}, {"height": int, "width": int})
        recorded_config(origin["config"])
        _check(origin, {"epoch": int})
        if origin.setdefault("bits", 8) not in (8, 16):  # earlier versions had only images of 8 bits
            raise InputError(f"bits={origin['bits']!r:.40} is not allowed")
        if not isinstance(origin["trained_in_run"], str | None):
            raise InputError("trained_in_run is not a run ID")
        if origin["calibration"] is not None:
            _check(origin["calibration"], {"method": str, "fingerprint": str})
        labels = Classes(tuple(protocol["classes"]), tuple(checked_colour(colour) for colour in record["palette"]))
        return Record(protocol, origin, labels)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise InputError(f"{file.name} is damaged or of another version: {error}") from error


def read_digests(file: Path) -> dict[str, str]:
    """Return the hash of each image's files by image name, in the order of `reliability/SPLIT_histograms.npz`.

    Raises:
        InputError: the file is damaged, or names an image twice.
    """
    with stored_arrays(file) as stored:
        arrays = stored.read(("name", "digest"))
        if any(array.ndim != 1 or array.dtype.kind != "U" for array in arrays.values()):
            raise InputError(f"{file.name} is damaged: its names are not strings")
        found = dict(zip(arrays["name"].tolist(), arrays["digest"].tolist(), strict=True))
        if len(found) < len(arrays["name"]) or not all(map(is_plain, found)):
            raise InputError(f"{file.name} is damaged: an image name is duplicated or not allowed")
    return found


def read_examples(file: Path, classes: int) -> dict[str, Example]:
    """Return the images of `examples/SPLIT.npz` by name.

    Raises:
        InputError: the file or an image is damaged.
    """
    with stored_arrays(file) as stored:
        names = stored.read(("name",))["name"]
        if names.ndim != 1 or names.dtype.kind != "U":
            raise InputError(f"{file.name} is damaged: its names are not strings")
        found = {}
        for index, name in enumerate(names.tolist()):
            parts = [f"{part}_{index}" for part in ("image", "truth", "predicted")]
            image, truth, predicted = stored.read(parts).values()
            one_size = image.shape == (*truth.shape, 3) and predicted.shape == truth.shape and truth.ndim == 2
            is_uint8 = all(array.dtype == np.uint8 for array in (image, truth, predicted))
            if not one_size or not is_uint8 or not truth.size or not is_plain(name):
                raise InputError(f"{file.name} is damaged: {name!r:.80} is not an image with two masks")
            if not ((truth < classes) | (truth == VOID)).all() or not (predicted < classes).all():
                raise InputError(f"{file.name} is damaged: {name!r:.80} has class indices beyond the {classes} classes")
            found[name] = Example(image, truth, predicted)
    return found


def _check(values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise an `InputError` unless the values have these types and integers are not negative."""
    for name, kind in kinds.items():
        if type(values[name]) is not kind or (kind is int and values[name] < 0):
            raise InputError(f"{name}={values[name]!r:.40} is not allowed")
