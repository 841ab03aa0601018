"""Table of all metrics: name, label, direction, meaning, and where each is shown.

A run logs each metric as `<split>/<name>`, for example `val/mean_iou`, and the IoU of each class as
`<split>/iou/<class>`. At its end a training run logs the metrics of the model that it kept as `val_model/<name>`. Every
list of metric names in the program is derived from this table and keeps its order.
`segmentation.scoring.definitions` computes the metrics.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """A number measured on a whole split."""

    higher_is_better: bool | None
    """None for a metric without a better direction."""
    label: str
    """Name in tables and sentences."""
    meaning: str
    headline: bool = False
    """Shown for every epoch, in every table of runs or trials, and tested when runs are compared."""
    brief: bool = False
    """Shown where space is short: heat maps of a study, table of calibrations in a report."""
    on_train: bool = False
    """Also measured on the training split, during each epoch."""
    calibration: bool = False
    """Listed under calibration in a report, and before other metrics in comparisons."""
    of_change: bool = False
    """Listed before and after a post-hoc calibration."""


METRICS = {
    "loss": Metric(
        False, "loss", "cross-entropy (negative log-likelihood) in nats, mean over the non-void pixels of the split",
        headline=True, brief=True, on_train=True, of_change=True,
    ),
    "pixel_accuracy": Metric(
        True, "pixel accuracy", "fraction of non-void pixels whose most probable class is correct",
        headline=True, brief=True, on_train=True, of_change=True,
    ),
    "mean_class_accuracy": Metric(
        True, "mean class accuracy", "fraction of each class's pixels that are predicted correctly, mean over classes"
    ),
    "mean_iou": Metric(
        True, "mean IoU", "intersection over union of each class, mean over classes", headline=True, of_change=True
    ),
    "mean_dice": Metric(
        True, "mean Dice", "Dice coefficient (F1 score) of each class's pixels, mean over classes"
    ),
    "mean_precision": Metric(
        True, "mean precision", "fraction of the pixels predicted as a class that are of it, mean over classes"
    ),
    "mean_recall": Metric(
        True, "mean recall",
        "fraction of each class's pixels that are predicted as it, mean over classes; 0 for a class only predicted",
    ),
    "mean_boundary_iou": Metric(
        True, "mean boundary IoU",
        "IoU of the pixels within 2 % of the image's diagonal inside the contours of each class, mean over classes",
    ),
    "ece": Metric(
        False, "ECE", "expected calibration error in [0, 1], top label, 10 equal-width bins",
        headline=True, brief=True, calibration=True, of_change=True,
    ),
    "confidence_gap": Metric(
        None, "confidence gap", "accuracy minus confidence; negative is over-confident, positive under-confident",
        calibration=True, of_change=True,
    ),
    "debiased_ece": Metric(
        False, "debiased ECE", "ECE minus the bias from sampling noise for this number of images", calibration=True
    ),
    "adaptive_ece": Metric(False, "adaptive ECE", "ECE over 10 bins with equal numbers of pixels", calibration=True),
    "classwise_ece": Metric(
        False, "classwise ECE", "ECE of each class's probability, one class against the rest, mean over classes",
        calibration=True, of_change=True,
    ),
    "image_ece": Metric(
        False, "image-wise ECE", "ECE of each image, mean over images", calibration=True, of_change=True
    ),
    "image_ece_spread": Metric(False, "spread of the image-wise ECE", "standard deviation of the ECE over images"),
    "rmsce": Metric(False, "RMSCE", "root mean square gap between accuracy and confidence of the bins"),
    "debiased_rmsce": Metric(
        False, "debiased RMSCE", "RMSCE minus the bias from sampling noise for this number of images"
    ),
    "mce": Metric(
        False, "MCE", "largest gap between accuracy and confidence of any bin, in [0, 1], however few its pixels",
        calibration=True,
    ),
    "brier": Metric(
        False, "Brier score", "squared distance of the class probabilities from the one-hot truth, in [0, 2]",
        calibration=True, of_change=True,
    ),
    "brier_reliability": Metric(
        False, "Brier reliability", "part of the Brier score that perfect calibration would remove"
    ),
    "brier_resolution": Metric(
        True, "Brier resolution", "part of the Brier score's uncertainty that the predictions explain"
    ),
    "brier_uncertainty": Metric(
        None, "Brier uncertainty", "Brier score of always predicting the class frequencies of the split"
    ),
    "aurc": Metric(
        False, "AURC", "area under the risk-coverage curve: mean error rate if only the most confident pixels are kept"
    ),
}  # fmt: skip

HEADLINE = tuple(name for name, metric in METRICS.items() if metric.headline)
BRIEF = tuple(name for name, metric in METRICS.items() if metric.brief)
CALIBRATION = tuple(name for name, metric in METRICS.items() if metric.calibration)
ON_TRAIN = tuple(name for name, metric in METRICS.items() if metric.on_train)
COMPARED = tuple(sorted(HEADLINE, key=lambda name: name not in CALIBRATION))
OF_CHANGE = tuple(
    sorted((name for name, metric in METRICS.items() if metric.of_change), key=lambda name: name not in CALIBRATION)
)

TIES = ("val/loss", "val/ece")
"""Metrics, lower is better, that decide in this order between runs or trials that are equal otherwise."""


def of_epoch(names: tuple[str, ...] = HEADLINE) -> tuple[str, ...]:
    """Names as logged for every epoch: `train/<name>`, where that is measured, before `val/<name>`."""
    return tuple(
        f"{split}/{name}" for name in names for split in ("train", "val") if split == "val" or METRICS[name].on_train
    )


def of_model(metric: str) -> str:
    """Name under which a run logs a metric such as `val/loss` of the model that it kept, once at its end."""
    return f"val_model/{metric.removeprefix('val/')}"


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` beats `than` on a metric such as `val/loss`. NaN never wins; any number beats NaN."""
    if value != value:
        return False
    if than != than:
        return True
    return value > than if METRICS[metric.rpartition("/")[2]].higher_is_better else value < than
