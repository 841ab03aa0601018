"""The one table of what is measured on a split: name, direction and meaning of every metric.

A run logs each as `<split>/<name>`, for example `val/mean_iou`, and each class's IoU as `<split>/iou/<class>`.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """One figure measured on a whole split."""

    higher_is_better: bool
    meaning: str


METRICS = {
    "loss": Metric(False, "cross-entropy in nats, mean over all non-void pixels of the split"),
    "pixel_accuracy": Metric(True, "share of non-void pixels whose most probable class is right"),
    "mean_class_accuracy": Metric(True, "share of each class's pixels found, mean over classes"),
    "mean_iou": Metric(True, "intersection over union of each class, mean over classes"),
    "ece": Metric(False, "expected calibration error in [0, 1], top label, 10 equal-width bins"),
    "mce": Metric(False, "largest gap between accuracy and confidence of a bin, however few its pixels, in [0, 1]"),
    "brier": Metric(False, "squared distance of the class probabilities from the truth, in [0, 2]"),
}


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` beats `than` on a metric such as `val/loss`; nothing beats without being a number.

    A value that is not a number never wins, and anything that is a number beats one that is not.
    """
    if value != value:
        return False
    if than != than:
        return True
    return value > than if METRICS[metric.rpartition("/")[2]].higher_is_better else value < than
