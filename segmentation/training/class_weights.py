"""Weights of the classes in the training loss, from the pixels of the training split or from a file."""

import json
from pathlib import Path

import numpy as np
import torch

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.data.split import Split, histogram
from segmentation.errors import InputError, listed

NAMED = ("none", "inverse", "median_frequency")
"""Values of `class_weights` that are no path."""
EXTREME = 1000
"""Weights of more than this many times the median are warned of."""


def class_weights(config: TrainingConfig, split: Split) -> torch.Tensor | None:
    """Return the weight of each class, `(C,)` float32; None if `class_weights=none`.

    - `inverse`: number of labelled pixels, divided by the number of classes that have pixels and by the pixels of the
      class. The mean over the labelled pixels is 1. A class that has a tenth of the pixels of another has ten times its
      weight.
    - `median_frequency`: median over the classes of their frequency, divided by the frequency of the class. The
      frequency counts pixels of the class among the labelled pixels of the images that hold it (Eigen and Fergus,
      "Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015).
    - a path: a JSON file with the weight of each class by its name.

    A class without pixels has weight 0.

    Args:
        config: its `class_weights`.
        split: the training split.

    Raises:
        InputError: the file cannot be read, lacks a class, or holds something else than a weight.
    """
    classes = len(split.labels)
    if config.class_weights == "none":
        return None
    if config.class_weights == "inverse":
        pixels = np.array(split.pixels_by_value(), dtype=np.float64)[:classes]
        return _inverse(pixels, pixels.sum() / max(1, np.count_nonzero(pixels)))
    if config.class_weights == "median_frequency":
        frequencies = _frequencies(split)
        present = frequencies[frequencies > 0]
        return _inverse(frequencies, float(np.median(present)) if len(present) else 0.0)
    return torch.tensor(weights_of_file(Path(config.class_weights), split.labels.names), dtype=torch.float32)


def extreme(weights: torch.Tensor) -> list[int]:
    """Return the classes whose weight is more than `EXTREME` times the median: a few pixels would decide the loss."""
    positive = weights[weights > 0]
    return (weights > EXTREME * positive.median()).nonzero().flatten().tolist() if len(positive) else []


def _inverse(values: np.ndarray, numerator: float) -> torch.Tensor:
    weights = np.divide(numerator, values, out=np.zeros_like(values), where=values > 0)
    return torch.from_numpy(weights).float()


def _frequencies(split: Split) -> np.ndarray:
    """Return the pixels of each class, divided by the labelled pixels of the images that hold it, `(C,)`."""
    classes = len(split.labels)
    pixels, of_images = np.zeros(classes), np.zeros(classes)
    for mask in split.masks:
        counts = np.array(histogram(mask), dtype=np.float64)
        counts[VOID] = 0
        pixels += counts[:classes]
        of_images[counts[:classes] > 0] += counts.sum()
    return np.divide(pixels, of_images, out=np.zeros(classes), where=of_images > 0)


def weights_of_file(file: Path, names: tuple[str, ...]) -> list[float]:
    """Return the weight of each class from a JSON file.

    Raises:
        InputError: the file cannot be read, lacks a class, or holds something else than a weight.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"class_weights={file} cannot be read ({error.strerror}): set it to none, inverse, median_frequency, or "
            f"the path of a JSON file such as {json.dumps(dict.fromkeys(names, 1.0))}"
        ) from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise InputError(f"class_weights={file} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"class_weights={file} must hold an object with the weight of each class by its name")
    if unknown := [str(name) for name in values if name not in names]:
        raise InputError(f"class_weights={file}: {listed(unknown)} is no class; the classes are {listed(names, 20)}")
    if missing := [name for name in names if name not in values]:
        raise InputError(f"class_weights={file} has no weight of {listed(missing)}")
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float("inf"):
            raise InputError(
                f"class_weights={file}: the weight of {name} is {value!r}; it must be a number of at least 0"
            )
    if not any(values.values()):
        raise InputError(f"class_weights={file}: all weights are 0; at least one must be larger")
    return [float(values[name]) for name in names]
