"""Where does miscalibration sit? Reliability of parts of a split: near boundaries, of one class, of the foreground."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segmentation.classes import Classes
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.calibration_error import coarse
from segmentation.scoring.reliability import Bins


class Group(NamedTuple):
    """Some of a split's pixels."""

    kind: str
    """What sets it apart: `region`, `ground`, `true class` or `predicted class`."""
    name: str


class GroupReliability(NamedTuple):
    """How well calibrated a group of pixels is."""

    bins: Bins
    ece: Interval
    """95 % interval over images of the expected calibration error."""
    confidence_gap: Interval
    """95 % interval over images of accuracy minus confidence."""


def grouped(columns: Mapping[str, np.ndarray], labels: Classes) -> dict[Group, Bins]:
    """The bins of every group, `(..., 10)`, from the columns that `Scores` measures, summed over any images.

    `region` tells pixels near a boundary from the interior. `ground` tells the class called `background` from all
    others, where there is such a class.
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
    """ECE and accuracy minus confidence of every group, `(..., G)`; arguments as of `grouped`."""
    bins = [(group.count, group.correct - group.confidence_sum) for group in grouped(columns, labels).values()]
    return {
        "ece": np.stack([calibration.ece(*each) for each in bins], -1),
        "confidence_gap": np.stack([calibration.confidence_gap(*each) for each in bins], -1),
    }
