"""Cross-validation in numbers: mean and spread over the folds of each setting, and differences of settings by fold."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segmentation.metrics import COMPARED, METRICS
from segmentation.scoring.scores import Scores
from studies.base.markdown import code, escaped
from studies.base.tables import csv_text, table


class Spread(NamedTuple):
    """Mean and spread of a value over folds."""

    mean: float
    std: float
    """Standard deviation with `n - 1`; NaN for one fold."""

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if math.isnan(self.std) else f"{self.mean:.4f} ± {self.std:.4f}"


class FoldRun(NamedTuple):
    """The run of one fold."""

    run_id: str
    metrics: Mapping[str, float]
    """Metrics of its model on the fold, NaN where there is no value."""
    half_width: Mapping[str, float]
    """Half of the 95 % interval over the fold's images, by metric."""


class Setting(NamedTuple):
    """One setting, trained once for each fold."""

    name: str
    runs: Mapping[int, FoldRun]
    """The runs by fold, without those that diverged."""

    def spread(self, metric: str) -> Spread:
        """Return mean and spread of a metric over the folds in which it has a value."""
        return spread_of([run.metrics[metric] for run in self.runs.values()])


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of the values that are not NaN."""
    found = np.array([value for value in values if not math.isnan(value)])
    mean = float(found.mean()) if len(found) else math.nan
    return Spread(mean, float(found.std(ddof=1)) if len(found) > 1 else math.nan)


def fold_run(run_id: str, scores: Scores) -> FoldRun:
    """Return the metrics of a run on its fold, with half of their intervals."""
    intervals = scores.intervals()
    half_width = {name: (intervals[name][1] - intervals[name][0]) / 2 for name in COMPARED}
    return FoldRun(run_id, scores.metrics(), half_width)


def differences(first: Setting, second: Setting, metric: str) -> tuple[Spread, int, int]:
    """Return mean and spread of first minus second by fold, in how many folds first is better, and of how many."""
    shared = [fold for fold in first.runs if fold in second.runs]
    values = [first.runs[fold].metrics[metric] - second.runs[fold].metrics[metric] for fold in shared]
    higher = METRICS[metric].higher_is_better
    better = sum(value > 0 if higher else value < 0 for value in values)
    return spread_of(values), better, sum(not math.isnan(value) for value in values)


def sentences(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield for each setting its means with the spread over folds and over images, then each pair of settings."""
    for setting in settings:
        parts = []
        for metric in COMPARED:
            over_images = np.mean([run.half_width[metric] for run in setting.runs.values()])
            parts.append(f"{metric} {setting.spread(metric)} (images ± {over_images:.4f})")
        yield f"{setting.name}: {'; '.join(parts)}."
    for first, second in itertools.combinations(settings, 2):
        parts = []
        for metric in COMPARED:
            spread, better, folds = differences(first, second, metric)
            sign = "+" if spread.mean >= 0 else ""
            parts.append(f"{metric} {sign}{spread}, better in {better} of {folds} folds")
        yield f"{first.name} against {second.name}, differences by fold: {'; '.join(parts)}."


def markdown(settings: Sequence[Setting], folds: int) -> Iterator[str]:
    """Yield a table with one row for each setting, the sentences, and a table with the runs of all folds."""
    rows = [
        [escaped(each.name), f"{len(each.runs)} of {folds}", *(str(each.spread(metric)) for metric in COMPARED)]
        for each in settings
    ]
    yield from table(["setting", "folds", *COMPARED], rows)
    yield from ("", f"{explanation(folds)}", "", *(f"- {escaped(sentence)}" for sentence in sentences(settings)), "")
    runs = [
        [escaped(each.name), str(fold), code(run.run_id), *(f"{run.metrics[metric]:.4f}" for metric in COMPARED)]
        for each in settings
        for fold, run in each.runs.items()
    ]
    yield from table(["setting", "fold", "run", *COMPARED], runs)


def explanation(folds: int) -> str:
    """Return what the numbers are, in two sentences."""
    return (
        f"Mean ± standard deviation over {folds} folds; in brackets, half of a fold's 95 % interval over its images "
        f"(mean over folds). The folds share training images, so the deviation is no standard error of the mean."
    )


def csv(settings: Sequence[Setting]) -> str:
    """Return every metric of every fold, then mean and standard deviation, as CSV."""
    rows: list[list[object]] = []
    for each in settings:
        for metric in METRICS:
            rows += [[each.name, fold, run.run_id, metric, run.metrics[metric]] for fold, run in each.runs.items()]
            spread = each.spread(metric)
            rows += [[each.name, "mean", "", metric, spread.mean], [each.name, "std", "", metric, spread.std]]
    return csv_text(["setting", "fold", "run", "metric", "value"], rows)


def record(settings: Sequence[Setting], folds: int) -> Mapping[str, object]:
    """Return the same as JSON values."""
    return {
        "folds": folds,
        "settings": [
            {
                "name": each.name,
                "run_ids": {str(fold): run.run_id for fold, run in each.runs.items()},
                "metrics": {metric: each.spread(metric).mean for metric in METRICS},
                "std": {metric: each.spread(metric).std for metric in METRICS},
                "values": {
                    metric: {str(fold): run.metrics[metric] for fold, run in each.runs.items()} for metric in METRICS
                },
            }
            for each in settings
        ],
        "sentences": list(sentences(settings)),
    }
