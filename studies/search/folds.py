"""A trial over all folds: the result of each finished fold is stored with the trial, and its value is their mean.

The folds are trained one after another, each in its own MLflow run. A trial can be pruned in its first fold only, where
all trials are compared on the same images.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from optuna import Trial
from optuna.trial import FrozenTrial

from studies.runs.training import TrainingResult
from studies.search.trials import store_long

FOLDS = "folds"
"""System attribute of a trial: the results of its finished folds, in order."""
STD = "_std"
"""End of the name of a metric's standard deviation over folds."""
INTERVAL_ENDS = ("_low", "_high")
"""Ends of the names of metrics that are ends of an interval, which have no mean over folds."""


class TrialResult(NamedTuple):
    """Result of a trial, or of one of its folds."""

    run_id: str
    epochs: int
    kept_epoch: int
    kept: Mapping[str, float]
    """Metrics of the epoch whose weights became the model; without NaN."""


def result_of(trained: TrainingResult) -> TrialResult:
    """Return the result of one run."""
    kept = {name: value for name, value in trained.kept.items() if not math.isnan(value)}
    return TrialResult(trained.run_id, trained.epochs, trained.kept_epoch, kept)


def finished_folds(trial: FrozenTrial) -> list[TrialResult]:
    """Return the results of the folds that a trial, or the trials that it resumes, have finished."""
    stored: list[dict[str, Any]] = trial.system_attrs.get(FOLDS, [])
    return [TrialResult(**each) for each in stored]


def store_folds(trial: Trial, finished: Sequence[TrialResult]) -> None:
    """Store the results of the finished folds with the trial. A trial that resumes it has them, too."""
    store_long(trial, FOLDS, [each._asdict() for each in finished])


def mean_result(folds: Sequence[TrialResult]) -> TrialResult:
    """Return the mean of each metric over the folds that measured it, with its standard deviation as `NAME_std`.

    The epochs are the sum, the kept epoch is the rounded mean, and the run is that of the first fold.
    """
    if len(folds) == 1:
        return folds[0]
    kept = {}
    for name in dict.fromkeys(name for fold in folds for name in fold.kept if not name.endswith(INTERVAL_ENDS)):
        values = [fold.kept[name] for fold in folds if name in fold.kept]
        kept[name] = fmean(values)
        if len(values) > 1 and not name.startswith("val/iou/"):
            kept[name + STD] = stdev(values)
    return TrialResult(
        folds[0].run_id, sum(fold.epochs for fold in folds), round(fmean(fold.kept_epoch for fold in folds)), kept
    )
