"""What a study is after: metrics with their directions, and a limit that settings must keep."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from segmentation.errors import InputError, one_of
from segmentation.metrics import METRICS, ON_TRAIN
from studies.config import TuneConfig

DIRECTIONS = {
    **{f"val/{name}": about.higher_is_better for name, about in METRICS.items() if about.higher_is_better is not None},
    **{f"train/{name}": bool(METRICS[name].higher_is_better) for name in ON_TRAIN},
}
"""Whether higher is better, for every metric of a run that has a better end; `val/iou/CLASS` is another."""
FAR = 1e9
"""Stands for an excess that is not a number, and puts what breaks a limit behind all that keeps it."""


class Goal(NamedTuple):
    """One metric to make as good as possible."""

    metric: str
    higher_is_better: bool

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric among the metrics of an epoch.

        Raises:
            InputError: it is not among them, as the IoU of a class that is in no image.
        """
        value = metrics.get(self.metric, math.nan)
        if self.metric not in metrics or value != value:
            raise InputError(f"objective={self.metric}: this training measured no such figure")
        return value


class Limit(NamedTuple):
    """A bound on one metric."""

    metric: str
    at_most: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.bound:g}"

    def excess(self, metrics: Mapping[str, float]) -> float:
        """How far the metrics of an epoch lie beyond the bound; 0 or less is within."""
        value = metrics.get(self.metric, math.nan)
        beyond = value - self.bound if self.at_most else self.bound - value
        return FAR if math.isnan(beyond) else beyond


def goals(config: TuneConfig) -> tuple[Goal, ...]:
    """What `objective` or `objectives` name.

    Raises:
        InputError: one of them is not known, or is neither better high nor low.
    """
    field = "objective" if config.objectives is None else "objectives"
    names = [config.objective] if config.objectives is None else [part.strip() for part in config.objectives.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"objectives={config.objectives} names a metric twice")
    return tuple(Goal(name, _higher_is_better(field, name)) for name in names)


def limit(config: TuneConfig) -> Limit | None:
    """What `constraint` says.

    Raises:
        InputError: it is not METRIC<=NUMBER or METRIC>=NUMBER.
    """
    if config.constraint is None:
        return None
    found = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*(\S+)\s*", config.constraint)
    try:
        metric, sign, bound = found.groups() if found else ("", "", "")
        number = float(bound)
        if not math.isfinite(number):
            raise ValueError(bound)
    except ValueError:
        raise InputError(
            f"constraint={config.constraint!r} is not understood; write METRIC<=NUMBER or METRIC>=NUMBER, such as "
            f"val/ece<=0.08"
        ) from None
    if metric not in {f"val/{name}" for name in METRICS}:  # those that have no better end can be limited, too
        _higher_is_better("constraint", metric)
    return Limit(metric, sign == "<=", number)


def _higher_is_better(field: str, metric: str) -> bool:
    if metric.startswith("val/iou/"):
        return True
    return DIRECTIONS[one_of(field, metric, DIRECTIONS)]
