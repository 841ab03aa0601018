"""Which class was taken for which: exact counts, and the accuracies and IoU that follow.

Definitions: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
Classes that appear neither in the truth nor in the prediction of the whole split are left out of means.
"""

import numpy as np
import torch


class Confusion:
    """Streaming counts `(C, C)` int64: row true class, column predicted class. Void pixels are not counted."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def update(self, predicted: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> None:
        """Add pixels; three tensors of one shape: predicted class, true class, whether to count the pixel."""
        classes = len(self.counts)
        cells = torch.where(valid, labels.long() * classes + predicted, classes * classes)
        counts = torch.bincount(cells.flatten(), minlength=classes * classes + 1)[:-1]
        self.counts += counts.reshape(classes, classes).cpu().numpy()

    def merge(self, other: "Confusion") -> None:
        """Add the counts of another part of the split."""
        self.counts += other.counts

    def pixel_accuracy(self) -> float:
        """Share of all counted pixels that are right; NaN without any."""
        return _ratio(self.counts.trace(), self.counts.sum())

    def class_accuracy(self) -> np.ndarray:
        """`(C,)` share of each class's pixels that were found; NaN for a class without pixels."""
        return ratios(self.counts.diagonal(), self.counts.sum(1))

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have pixels."""
        return _mean(self.class_accuracy())

    def iou(self) -> np.ndarray:
        """`(C,)` intersection over union of each class; NaN for a class neither present nor predicted."""
        intersection = self.counts.diagonal()
        return ratios(intersection, self.counts.sum(0) + self.counts.sum(1) - intersection)

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are present or predicted."""
        return _mean(self.iou())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` element by element, `(n,)` each; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
