"""What a model without any knowledge of the images reaches, and which classes a model never predicts.

A model that predicts the same probabilities for every pixel does best, in cross-entropy, with the class frequencies of
the split: its loss is their entropy, and it predicts the most frequent class everywhere. A model that is no better has
learned no segmentation, however good its pixel accuracy or its calibration.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segmentation.scoring.confusion import iou, mean_of_defined


class Baseline(NamedTuple):
    """Metrics of predicting the class frequencies of a split for every pixel of it."""

    most_frequent: int
    """Index of the class that is predicted everywhere; the first of several equally frequent ones."""
    loss: float
    """Entropy of the class frequencies, in nats."""
    pixel_accuracy: float
    mean_iou: float
    """Mean over the classes that have pixels; all but the most frequent have an IoU of 0."""


def baseline(labelled: Sequence[int] | np.ndarray) -> Baseline:
    """Return the metrics of the best constant prediction.

    Args:
        labelled: `(C,)` number of non-void pixels of each class.

    Raises:
        ValueError: no pixel is labelled.
    """
    pixels = np.asarray(labelled, dtype=np.float64)
    if pixels.sum() == 0:
        raise ValueError("no labelled pixel: there is no most frequent class")
    frequencies = pixels / pixels.sum()
    most = int(frequencies.argmax())
    present = frequencies[frequencies > 0]
    predicted = np.where(np.arange(len(pixels)) == most, pixels.sum(), 0)
    hits = np.where(predicted > 0, pixels, 0)
    return Baseline(
        most,
        float(-(present * np.log(present)).sum()) + 0.0,
        float(frequencies[most]),
        float(mean_of_defined(iou(hits, pixels, predicted))),
    )


def never_predicted(counts: np.ndarray) -> list[int]:
    """Return the classes that have labelled pixels but are predicted for none.

    Args:
        counts: `(C, C)` confusion matrix: row true class, column predicted class.
    """
    return [int(index) for index in np.flatnonzero((counts.sum(1) > 0) & (counts.sum(0) == 0))]


def only_predicted(counts: np.ndarray) -> int | None:
    """Return the class that is predicted for every pixel although the labels hold several; None if there is none.

    Args:
        counts: `(C, C)` confusion matrix: row true class, column predicted class.
    """
    predicted = np.flatnonzero(counts.sum(0))
    return int(predicted[0]) if len(predicted) == 1 and (counts.sum(1) > 0).sum() > 1 else None
