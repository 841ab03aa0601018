"""Which class was taken for which: exact counts, and the accuracies and IoU that follow.

Definitions: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
Classes that appear neither in the truth nor in the prediction of the whole split are left out of means.
"""

import numpy as np
import torch


def iou(intersection: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union from pixel counts `(..., C)`; NaN for a class neither labelled nor predicted."""
    return ratios(intersection, labelled + predicted - intersection)


def ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` element by element, of one shape; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of `(..., C)` without the NaN; NaN where all are."""
    return ratios(np.nansum(values, -1), np.isfinite(values).sum(-1))


class Confusion:
    """Streaming counts `(C, C)` int64: row true class, column predicted class. Void pixels are not counted."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self._images: list[np.ndarray] = []

    def update(self, predicted: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> None:
        """Add images; tensors `(B, ...)` of one shape: predicted class, true class, whether the pixel counts."""
        images, classes = len(labels), len(self.counts)
        cells = images * classes * classes
        image = torch.arange(images, device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
        cell = torch.where(valid, (image * classes + labels.long()) * classes + predicted, cells)
        counts = (
            torch.bincount(cell.flatten(), minlength=cells + 1)[:-1].reshape(images, classes, classes).cpu().numpy()
        )
        self.counts += counts.sum(0)
        by_class = [counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1)]
        self._images.append(np.stack(by_class, 1).astype(np.uint32))

    def merge(self, other: "Confusion") -> None:
        """Add the counts of another part of the split, whose images come after these."""
        self.counts += other.counts
        self._images += other._images

    def per_image(self) -> dict[str, np.ndarray]:
        """Pixels of each class in each image, `(N, C)` uint32: `intersection`, `labelled`, `predicted`."""
        table = np.concatenate([np.zeros((0, 3, len(self.counts)), np.uint32), *self._images])
        return dict(zip(("intersection", "labelled", "predicted"), np.moveaxis(table, 1, 0), strict=True))

    def class_accuracy(self) -> np.ndarray:
        """`(C,)` share of each class's pixels that were found; NaN for a class without pixels."""
        return ratios(self.counts.diagonal(), self.counts.sum(1))

    def iou(self) -> np.ndarray:
        """`(C,)` intersection over union of each class; NaN for a class neither present nor predicted."""
        return iou(self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0))

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have pixels."""
        return float(mean_of_defined(self.class_accuracy()))

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are present or predicted."""
        return float(mean_of_defined(self.iou()))

    def pixel_accuracy(self) -> float:
        """Share of all counted pixels that are right; NaN without any."""
        return float(ratios(self.counts.trace(), self.counts.sum()))
