"""Scores in sentences: calibration against the noise floor, the scoring protocol in one line, warnings."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.scores import Scores

FEW = 20
"""Number of images below which bootstrap intervals over images are too narrow."""


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
    if ends.low <= 0 <= ends.high:
        lean = f"No over- or under-confidence shown on {images} images"
    else:
        lean = f"{'Over' if gap < 0 else 'Under'}-confident by {abs(gap):.4f} on average"
    relation = "above" if metrics["ece"] > floor.highest else "within"
    text = (
        f"{lean} (accuracy - confidence {gap:+.4f} {ends}). ECE {metrics['ece']:.4f} is {relation} the noise floor for "
        f"{images} images ({floor.mean:.4f} expected, {floor.highest:.4f} at the 95th percentile of a perfectly "
        f"calibrated model)."
    )
    return f"{text} With only {images} images, all intervals are too narrow." if images < FEW else text


def single_class_warning(scores: Scores) -> str:
    """Return a warning if a model predicts one class for all pixels although the labels hold several; else `""`."""
    counts = scores.confusion.counts
    labelled, predicted = (counts.sum(axis) > 0 for axis in (1, 0))
    if labelled.sum() < 2 or predicted.sum() != 1:
        return ""
    name = scores.labels.names[int(predicted.nonzero()[0][0])]
    return (
        f"the model predicts a single class, {name}, for every pixel: it has learned no segmentation. Train for more "
        f"epochs, change learning_rate, or check the masks"
    )


def protocol_line(rules: Mapping[str, Any]) -> str:
    """Return the scoring protocol in one line, for plots and tables."""
    resolution = rules["resolution"]
    size = resolution if isinstance(resolution, str) else f"{resolution[1]} × {resolution[0]}"
    if rules.get("in_crop", 1.0) != 1:
        size += f" ({100 * rules['in_crop']:.3g} % of the split)"
    return (
        f"{rules['images']} images, {rules['pixels']:,} pixels · {rules['bins']} bins (a, b] · size {size}, "
        f"{rules['interpolation']} · void not counted · {rules['precision']}"
    )


def crop_note(in_crop: Mapping[str, float]) -> str:
    """Return which fraction of the pixels of each split lies in the crop, and how to score the rest."""
    parts = " and ".join(f"{100 * fraction:.3g} % of the pixels of {name}" for name, fraction in in_crop.items())
    return (
        f"the crop keeps {parts}; the others are neither trained on nor scored. To score whole images, use evaluate "
        f"with score_at=original."
    )
