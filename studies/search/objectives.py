"""Objectives and the constraint of a study, read from `objective`, `objectives` and `constraint`."""

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
"""Metrics that can be objectives, and whether higher is better. `val/iou/CLASS` can be one, too."""
FAR = 1e9
"""Violation of a constraint whose metric was not measured. Also the offset that ranks violations behind all else."""


class Objective(NamedTuple):
    """A metric to optimise."""

    metric: str
    higher_is_better: bool

    def value(self, metrics: Mapping[str, float]) -> float:
        """The value of this metric among the metrics of an epoch.

        Raises:
            InputError: the metric is missing or NaN, such as the IoU of a class that is in no image.
        """
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value):
            raise InputError(f"objective={self.metric}: the run did not measure this metric; name another objective")
        return value


class Constraint(NamedTuple):
    """A bound on one metric."""

    metric: str
    at_most: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.bound:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Distance by which the metrics of an epoch exceed the bound; 0 or less is feasible."""
        value = metrics.get(self.metric, math.nan)
        violation = value - self.bound if self.at_most else self.bound - value
        return FAR if math.isnan(violation) else violation


def read_objectives(config: TuneConfig) -> tuple[Objective, ...]:
    """The metrics in `objectives`, or else in `objective`, with their directions.

    Raises:
        InputError: a metric is unknown or has no direction.
    """
    field = "objective" if config.objectives is None else "objectives"
    names = [config.objective] if config.objectives is None else [part.strip() for part in config.objectives.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"objectives={config.objectives} names a metric twice; name each once")
    return tuple(Objective(name, _higher_is_better(field, name)) for name in names)


def read_constraint(config: TuneConfig) -> Constraint | None:
    """The bound in `constraint`.

    Raises:
        InputError: it is not METRIC<=NUMBER or METRIC>=NUMBER.
    """
    if config.constraint is None:
        return None
    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*(\S+)\s*", config.constraint)
    try:
        metric, sign, bound = match.groups() if match else ("", "", "")
        number = float(bound)
        if not math.isfinite(number):
            raise ValueError(bound)
    except ValueError:
        raise InputError(
            f"constraint={config.constraint!r} is not valid; write METRIC<=NUMBER or METRIC>=NUMBER, such as "
            f"val/ece<=0.08"
        ) from None
    if metric not in {f"val/{name}" for name in METRICS}:  # a metric without a direction can be constrained, too
        _higher_is_better("constraint", metric)
    return Constraint(metric, sign == "<=", number)


def _higher_is_better(field: str, metric: str) -> bool:
    if metric.startswith("val/iou/"):
        return True
    return DIRECTIONS[one_of(field, metric, DIRECTIONS)]
