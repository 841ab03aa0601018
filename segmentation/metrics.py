"""The one table of what is measured on a split: name, direction and meaning of every metric.

A run logs each as `<split>/<name>`, for example `val/mean_iou`, and each class's IoU as `<split>/iou/<class>`.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """One figure measured on a whole split."""

    higher_is_better: bool | None
    """None for a figure that is neither."""
    meaning: str


METRICS = {
    "loss": Metric(
        False, "cross-entropy (negative log-likelihood) in nats, mean over all non-void pixels of the split"
    ),
    "pixel_accuracy": Metric(True, "share of non-void pixels whose most probable class is right"),
    "mean_class_accuracy": Metric(True, "share of each class's pixels found, mean over classes"),
    "mean_iou": Metric(True, "intersection over union of each class, mean over classes"),
    "ece": Metric(False, "expected calibration error in [0, 1], top label, 10 equal-width bins"),
    "confidence_gap": Metric(None, "accuracy minus confidence; negative is over-confident, positive under-confident"),
    "debiased_ece": Metric(False, "ECE less what chance adds on this many images"),
    "adaptive_ece": Metric(False, "ECE over 10 bins of equally many pixels"),
    "classwise_ece": Metric(False, "ECE of each class's probability against all others, mean over classes"),
    "image_ece": Metric(False, "ECE of each image by itself, mean over images"),
    "image_ece_spread": Metric(False, "standard deviation of the images' own ECE"),
    "rmsce": Metric(False, "root mean square gap between accuracy and confidence of the bins"),
    "debiased_rmsce": Metric(False, "RMSCE less what chance adds on this many images"),
    "mce": Metric(False, "largest gap between accuracy and confidence of a bin, however few its pixels, in [0, 1]"),
    "brier": Metric(False, "squared distance of the class probabilities from the truth, in [0, 2]"),
    "brier_reliability": Metric(False, "part of the Brier score that calibration could take away"),
    "brier_resolution": Metric(True, "part of the Brier score's uncertainty that the network resolves"),
    "brier_uncertainty": Metric(None, "Brier score of always giving the classes' shares of pixels"),
    "aurc": Metric(False, "area under the risk-coverage curve: mean error when only the most confident pixels count"),
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
