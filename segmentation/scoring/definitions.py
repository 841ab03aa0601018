"""Definition of every metric as a function of sums over images.

`sums_of_images` turns the counts of each image into arrays that can be added up over the images of a split, or of a
bootstrap resample of it. `metrics` computes every metric of `segmentation.metrics.METRICS` from these sums.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segmentation.metrics import METRICS
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.calibration_error import coarse
from segmentation.scoring.confusion import iou, mean_over_split, ratios


class ByClass(NamedTuple):
    """Metrics that have a value for each class, `(..., C)` each; NaN where a class has no value or is excluded.

    IoU, Dice, precision and recall have a value for the classes that are labelled or predicted. The precision is 0 for
    a class that is labelled but never predicted, and the recall 0 for one that is predicted but never labelled:
    otherwise a model could raise a mean by never predicting a class. Macro averages of torchmetrics do the same.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    """As recall, but NaN for a class without labelled pixels."""
    dice: np.ndarray
    """Twice the intersection over the sum of both areas: the F1 score of the pixels. Dice, "Measures of the Amount of
    Ecologic Association Between Species", Ecology 1945."""
    precision: np.ndarray
    """Fraction of the pixels predicted as the class that are of it."""
    recall: np.ndarray
    """Fraction of the class's pixels that are predicted as it."""
    boundary_iou: np.ndarray
    """IoU of the bands along the contours, see `segmentation.scoring.boundary_iou`; NaN for a class without contour."""

    @classmethod
    def of(cls, sums: Mapping[str, np.ndarray]) -> "ByClass":
        """Values from sums over images."""
        intersection, labelled, predicted = sums["intersection"], sums["labelled"], sums["predicted"]
        is_there = np.where(labelled + predicted > 0, 0.0, np.nan)
        return cls(
            iou=iou(intersection, labelled, predicted),
            accuracy=ratios(intersection, labelled),
            dice=ratios(2 * intersection, labelled + predicted),
            precision=is_there + np.nan_to_num(ratios(intersection, predicted)),
            recall=is_there + np.nan_to_num(ratios(intersection, labelled)),
            boundary_iou=ratios(sums["contour_intersection"], sums["contour_union"]),
        )

    def defined(self) -> "ByClass":
        """Whether a class has a value, `(..., C)` bool."""
        return ByClass(*map(np.isfinite, self))

    def within(self, chosen: "ByClass") -> "ByClass":
        """Values of a subset of the classes, `(C,)` bool for each metric; the others become NaN."""
        return ByClass(*(np.where(some, values, np.nan) for values, some in zip(self, chosen, strict=True)))

    def means(self, of_split: "ByClass") -> "ByClass":
        """Means over the classes, `(...)`, see `mean_over_split`."""
        return ByClass(*map(mean_over_split, self, of_split))


def sums_of_images(block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays `(b, ...)` to be added up over images.

    Args:
        block: counts of `b` images by column, as of `Scores.blocks`.
    """
    bins = coarse(block["count"].astype(np.int64)), coarse(block["correct"] - block["confidence_sum"])
    image_ece = calibration.ece(*bins)
    confusion = block["confusion"].astype(np.int64)
    return {
        "images": np.isfinite(image_ece).astype(np.int64),
        "image_ece": np.nan_to_num(image_ece),
        "image_ece_squared": np.nan_to_num(image_ece) ** 2,
        "pixels": block["pixels"].astype(np.int64),
        "negative_log_likelihood": block["negative_log_likelihood"],
        "brier": block["brier"],
        "correct": block["correct"].sum(1, np.int64),
        "count": bins[0],
        "gap": bins[1],
        "log_odds_count": block["log_odds_count"].astype(np.int64),
        "log_odds_gap": block["log_odds_correct"] - block["log_odds_confidence_sum"],
        "log_odds_correct": block["log_odds_correct"].astype(np.int64),
        "moments": calibration.moments(*bins),
        "intersection": confusion.diagonal(axis1=1, axis2=2),
        "labelled": confusion.sum(2),
        "predicted": confusion.sum(1),
        "contour_intersection": block["contour_intersection"].astype(np.int64),
        "contour_union": block["contour_union"].astype(np.int64),
        "class_count": block["one_vs_rest_count"].astype(np.int64),
        "class_gap": block["one_vs_rest_correct"] - block["one_vs_rest_confidence_sum"],
        "class_positive": block["one_vs_rest_correct"].astype(np.int64),
    }


def metrics(sums: Mapping[str, np.ndarray], of_split: ByClass, samplings: int = 1) -> dict[str, np.ndarray]:
    """Every metric of `segmentation.metrics.METRICS`, `(...)`; NaN where there is no non-void pixel.

    Args:
        sums: arrays `(..., K)` by the names of `sums_of_images`.
        of_split: the values of each class in the whole split, see `mean_over_split`.
        samplings: how many times sampling noise enters the sums: 1 for a split, 2 for a resample of a split.
    """
    bins, means = (sums["count"], sums["gap"]), ByClass.of(sums).means(of_split)
    one_vs_rest = sums["class_count"], sums["class_gap"]
    image_ece = ratios(sums["image_ece"], sums["images"])
    image_variance = np.maximum(ratios(sums["image_ece_squared"], sums["images"]) - image_ece**2, 0)
    debiased_ece, debiased_rmsce = calibration.debiased(*bins, sums["moments"], samplings)
    reliability, resolution, uncertainty = calibration.brier_decomposition(*one_vs_rest, sums["class_positive"])
    found = {
        "loss": ratios(sums["negative_log_likelihood"], sums["pixels"]),
        "pixel_accuracy": ratios(sums["correct"], sums["pixels"]),
        "mean_class_accuracy": means.accuracy,
        "mean_iou": means.iou,
        "mean_dice": means.dice,
        "mean_precision": means.precision,
        "mean_recall": means.recall,
        "mean_boundary_iou": means.boundary_iou,
        "ece": calibration.ece(*bins),
        "confidence_gap": calibration.confidence_gap(*bins),
        "debiased_ece": debiased_ece,
        "adaptive_ece": calibration.adaptive_ece(sums["log_odds_count"], sums["log_odds_gap"]),
        "classwise_ece": calibration.classwise_ece(*one_vs_rest),
        "image_ece": image_ece,
        "image_ece_spread": np.sqrt(image_variance * ratios(sums["images"], np.maximum(sums["images"] - 1, 1))),
        "rmsce": calibration.rmsce(*bins),
        "debiased_rmsce": debiased_rmsce,
        "mce": calibration.mce(*bins),
        "brier": ratios(sums["brier"], sums["pixels"]),
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
        "aurc": calibration.area_under_risk_coverage(sums["log_odds_count"], sums["log_odds_correct"]),
    }
    return {name: found[name] for name in METRICS}
