"""Reliability of groups of pixels: near boundaries, in the interior, foreground, background, and each class."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segmentation.classes import Classes
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.calibration_error import coarse
from segmentation.scoring.reliability import Bins


class Group(NamedTuple):
    """A group of a split's pixels."""

    kind: str
    """`region`, `ground`, `true class` or `predicted class`."""
    name: str


class GroupReliability(NamedTuple):
    """Calibration of a group of pixels."""

    bins: Bins
    ece: Interval
    """95 % interval over images of the expected calibration error."""
    confidence_gap: Interval
    """95 % interval over images of accuracy minus confidence."""


def grouped(columns: Mapping[str, np.ndarray], labels: Classes) -> dict[Group, Bins]:
    """Bins `(..., 10)` of every group from the columns of `Scores`, summed over any images.

    `region` separates the boundary band from the interior. `ground` separates the class called `background` from all
    others; data sets without such a class have no `ground`.
    """
    whole = Bins(*(coarse(columns[name]) for name in Bins.NAMES))
    boundary, true, predicted = (
        Bins(*(columns[f"{prefix}_{name}"] for name in Bins.NAMES)) for prefix in ("boundary", "true", "predicted")
    )
    found = {Group("region", "boundary"): boundary, Group("region", "interior"): whole.without(boundary)}
    if labels.background is not None:
        background = true.of(labels.background)
        found[Group("ground", "background")] = background
        found[Group("ground", "foreground")] = whole.without(background)
    for kind, bins in (("true class", true), ("predicted class", predicted)):
        found |= {Group(kind, name): bins.of(index) for index, name in enumerate(labels.names)}
    return found


def group_metrics(columns: Mapping[str, np.ndarray], labels: Classes) -> dict[str, np.ndarray]:
    """ECE and accuracy minus confidence of every group, `(..., G)`; arguments as for `grouped`."""
    bins = [(group.count, group.correct - group.confidence_sum) for group in grouped(columns, labels).values()]
    return {
        "ece": np.stack([calibration.ece(*each) for each in bins], -1),
        "confidence_gap": np.stack([calibration.confidence_gap(*each) for each in bins], -1),
    }
