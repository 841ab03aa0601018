"""Scores in sentences: calibration against the noise floor, the scoring protocol in one line, warnings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segmentation.errors import listed
from segmentation.scoring.baseline import baseline, never_predicted, only_predicted
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.calibration_error import confidence_verdict
from segmentation.scoring.confusion import iou, mean_of_defined
from segmentation.scoring.scores import Scores

PREDICTIONS = "warning.predictions"
"""Tag of a run with its warnings about what the model predicts."""
NO_IOU = 0.005
"""A class with a lower IoU is not found; it shows as 0.00."""
FEW = 20
"""Number of images below which bootstrap intervals over images are too narrow, and a noise floor is useless."""


class NoiseFloor(NamedTuple):
    """ECE of a perfectly calibrated model with the same confidences on as many images."""

    mean: float
    highest: float
    """95th percentile."""


def calibration_sentence(
    metrics: Mapping[str, float], intervals: Mapping[str, Interval], floor: NoiseFloor, images: int
) -> str:
    """Return whether a model is over- or under-confident, and whether its ECE exceeds the noise floor."""
    gap, ends = metrics["confidence_gap"], intervals["confidence_gap"]
    if math.isnan(gap):
        return "No labelled pixel: calibration is unknown."
    lean = confidence_verdict(gap, ends)
    text = f"{lean[0].upper()}{lean[1:]} on {_images(images)} (accuracy minus confidence {gap:+.4f} {ends})."
    if images < FEW:
        return f"{text} Too few images to compare the ECE {metrics['ece']:.4f} with that of a calibrated model."
    relation = "above" if metrics["ece"] > floor.highest else "within"
    return (
        f"{text} ECE {metrics['ece']:.4f} is {relation} the noise floor for {images} images ({floor.mean:.4f} "
        f"expected, {floor.highest:.4f} at the 95th percentile of a perfectly calibrated model)."
    )


def few_images_warning(images: int) -> list[str]:
    """Return the warning that intervals over so few images are too narrow; empty for enough images."""
    if images >= FEW:
        return []
    return [f"only {_images(images)} scored: all intervals are too narrow. Score at least {FEW} images, better 100"]


def trained_on_warning(split: str, images: int) -> list[str]:
    """Return the warning that a model was trained on the scored split."""
    return [
        f"the model was trained on these {_images(images)} (split={split}), so its metrics are too good. Score a split "
        f"that it has not seen"
    ]


def first_epoch_warning(kept_epoch: int, epochs: int, monitor: str) -> list[str]:
    """Return the warning that no epoch after the first was better; empty if one was."""
    if not kept_epoch == 1 < epochs:
        return []
    return [
        f"the best epoch is the first of {epochs}: {monitor} never improved after it. Lower learning_rate, train for "
        f"more epochs, or check the masks"
    ]


def learned_nothing(scores: Scores) -> str:
    """Return why a model has learned no segmentation, as the end of a sentence; empty if nothing shows that."""
    return why_nothing_learned(scores.confusion.counts, scores.labels.names)


def prediction_warnings(scores: Scores, loss: float) -> list[str]:
    """Return what shows that a model has learned little: classes not found, a mean IoU or a loss without knowledge.

    Args:
        scores: of a split.
        loss: their cross-entropy in nats.
    """
    counts = scores.confusion.counts
    warnings = count_warnings(counts, scores.labels.names)
    if (counts.sum(1) > 0).sum() > 1 and only_predicted(counts) is None:
        constant = baseline(counts.sum(1))
        if loss >= constant.loss:
            warnings.append(
                f"loss {loss:.4f} is not below that of predicting the class frequencies for every pixel "
                f"({constant.loss:.4f}): train for more epochs, with a smaller batch_size, or change learning_rate"
            )
    return warnings


def protocol_line(rules: Mapping[str, Any]) -> str:
    """Return the scoring protocol in one line, for plots and tables."""
    resolution = rules["resolution"]
    size = resolution if isinstance(resolution, str) else f"{resolution[1]} × {resolution[0]}"
    if rules.get("in_crop", 1.0) != 1:
        size += f" ({100 * rules['in_crop']:.3g} % of the split)"
    seen = f" · {rules['views']}" if "views" in rules else ""
    return (
        f"{rules['images']} images, {rules['pixels']:,} pixels · {rules['bins']} bins (a, b] · size {size}, "
        f"{rules['interpolation']}{seen} · void not counted · {rules['precision']}"
    )


def crop_note(in_crop: Mapping[str, float]) -> str:
    """Return which fraction of the pixels of each split lies in the crop, and how to score the rest."""
    parts = " and ".join(f"{100 * fraction:.1f} % of the pixels of {name}" for name, fraction in in_crop.items())
    return (
        f"the crop keeps {parts}; the others are neither trained on nor scored. To train on all parts of the images "
        f"and score whole ones, set crop_at=random score_crop=whole; to score whole images only, use evaluate with "
        f"score_at=original."
    )


def why_nothing_learned(counts: np.ndarray, names: Sequence[str]) -> str:
    """Return why a model has learned no segmentation, as the end of a sentence; empty if nothing shows that.

    Args:
        counts: `(C, C)` confusion matrix: row true class, column predicted class.
        names: of the classes.
    """
    labelled, predicted = counts.sum(1), counts.sum(0)
    if (labelled > 0).sum() < 2:
        return ""
    only, constant = only_predicted(counts), baseline(labelled)
    if only is not None:
        return f"predicts only {names[only]}"
    mean_iou = float(mean_of_defined(iou(counts.diagonal(), labelled, predicted)))
    if mean_iou <= constant.mean_iou:
        return (
            f"has a mean IoU of {mean_iou:.4f}, not above that of predicting {names[constant.most_frequent]} "
            f"everywhere ({constant.mean_iou:.4f})"
        )
    return ""


def count_warnings(counts: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the warnings of `prediction_warnings` for a confusion matrix; arguments as in `why_nothing_learned`."""
    if (counts.sum(1) > 0).sum() < 2:
        return []
    warnings = []
    missing = listed([names[index] for index in never_predicted(counts)], at_most=10)
    only = only_predicted(counts)
    if only is not None:
        warnings.append(
            f"the model predicts only {names[only]} (never predicted: {missing}): it has learned no segmentation. "
            f"Train for more epochs, with a smaller batch_size (more steps), change learning_rate, or check the masks"
        )
    elif missing:
        warnings.append(f"never predicted, although the labels hold them: {missing}")
    values = iou(counts.diagonal(), counts.sum(1), counts.sum(0))
    found = (counts.sum(1) > 0) & (counts.sum(0) > 0)
    hardly = [names[int(index)] for index in np.flatnonzero(found & (np.nan_to_num(values) < NO_IOU))]
    if hardly:
        warnings.append(f"predicted nearly always wrongly (IoU below {NO_IOU}): {listed(hardly, 10)}")
    if only is None and (reason := why_nothing_learned(counts, names)):
        warnings.append(f"the model {reason}")
    return warnings


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
