"""Confusion matrix of each image, and the accuracies and IoU that follow from it.

Definitions: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
Means exclude classes that are neither labelled nor predicted in the whole split.
"""

from collections.abc import Sequence

import numpy as np
import torch

from segmentation.scoring.image_table import ImageTable


def iou(intersection: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union from pixel counts `(..., C)`; NaN for a class neither labelled nor predicted."""
    return ratios(intersection, labelled + predicted - intersection)


def ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Elementwise `part / whole` of arrays of the same shape; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of `(..., C)`, ignoring NaN; NaN where all are NaN."""
    return ratios(np.nansum(values, -1), np.isfinite(values).sum(-1))


def mean_over_split(values: np.ndarray, of_split: np.ndarray) -> np.ndarray:
    """Mean over the classes that have a value in the whole split, for the split and for resamples of it.

    A class of this set that a resample lacks, labelled or predicted, keeps its value in the whole split. Excluding it
    would change which classes are averaged, and 0 would be an error that no prediction made.

    Args:
        values: `(..., C)`, of resamples or of the split; NaN where a class has no value.
        of_split: `(C,)`, NaN for classes that are not averaged.
    """
    chosen = np.isfinite(of_split)
    if not chosen.any():
        return np.full(values.shape[:-1], np.nan)
    return np.where(np.isfinite(values), values, of_split)[..., chosen].mean(-1)


class Confusion:
    """Confusion matrix of each image, filled batch by batch. Void pixels are not counted."""

    def __init__(self, classes: int) -> None:
        self.table = ImageTable({"confusion": ("u4", (classes, classes))})

    @property
    def counts(self) -> np.ndarray:
        """Sum over all images, `(C, C)` int64: row true class, column predicted class."""
        return self.table.totals["confusion"]

    def update(
        self,
        predicted: torch.Tensor,
        labels: torch.Tensor,
        valid: torch.Tensor,
        images: Sequence[int] | None = None,
    ) -> None:
        """Add images.

        Args:
            predicted, labels, valid: `(B, ...)` predicted class, true class, and whether the pixel counts.
            images: number of each image, see `ImageTable`: an image is counted once. None counts all images.
        """
        count, classes = len(labels), len(self.counts)
        cells = count * classes * classes
        image = torch.arange(count, device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
        cell = torch.where(valid, (image * classes + labels.long()) * classes + predicted, cells)
        counts = torch.bincount(cell.flatten(), minlength=cells + 1)[:-1].reshape(count, classes, classes)
        self.table.append({"confusion": counts.cpu().numpy()}, images)

    def merge(self, other: "Confusion") -> None:
        """Add the images of another part of the split; an image in both parts counts once."""
        self.table.extend(other.table)

    def class_accuracy(self) -> np.ndarray:
        """`(C,)` fraction of each class's pixels that are predicted correctly; NaN for a class without pixels."""
        return ratios(self.counts.diagonal(), self.counts.sum(1))

    def iou(self) -> np.ndarray:
        """`(C,)` intersection over union of each class; NaN for a class neither labelled nor predicted."""
        return iou(self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0))

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have pixels."""
        return float(mean_of_defined(self.class_accuracy()))

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are labelled or predicted."""
        return float(mean_of_defined(self.iou()))

    def pixel_accuracy(self) -> float:
        """Fraction of the pixels that are predicted correctly; NaN without pixels."""
        return float(ratios(self.counts.trace(), self.counts.sum()))
