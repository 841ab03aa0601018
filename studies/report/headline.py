"""Choose the run that a report leads with: the best by the runs' own monitor, never silently a degenerate one."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from segmentation.metrics import METRICS, TIES, is_better
from studies.report.content import ReportedRun
from studies.report.predictions import learned_nothing

MONITOR = "val/mean_iou"
"""Metric by which runs with different monitors are ranked."""


class Choice(NamedTuple):
    """The main run of a report."""

    run: ReportedRun | None
    why: str
    """Why it was chosen, such as `highest val/mean_iou of 3 finished training runs`."""


def first_of(runs: Sequence[ReportedRun], split: str) -> Choice:
    """Return the first of the runs that a user listed, or the first that has learned some segmentation."""
    if len(runs) == 1:
        return Choice(runs[0], "the only training run")
    learned = [run for run in runs if not learned_nothing(run, split)] or list(runs)
    if learned[0] is runs[0]:
        return Choice(runs[0], "the first in run_ids")
    passed_over = runs[: list(runs).index(learned[0])]
    return Choice(
        learned[0], f"the first in run_ids that has learned some segmentation; {_why_not(passed_over, split)}"
    )


def best_of(runs: Sequence[ReportedRun], split: str, what: str) -> Choice:
    """Return the best of some runs by their monitor; a run that has learned no segmentation only if all have not.

    Args:
        runs: the candidates.
        split: split whose scores the report shows.
        what: what they are, such as `finished training runs`.
    """
    if not runs:
        return Choice(None, "")
    if len(runs) == 1:
        return Choice(runs[0], f"the only one of the {what}")
    monitors = {str(run.config.get("monitor", MONITOR)) for run in runs}
    monitor = monitors.pop() if len(monitors) == 1 else MONITOR
    ranked = _ranked(runs, monitor)
    learned = [run for run in ranked if not learned_nothing(run, split)]
    best = (learned or ranked)[0]
    rank = "highest" if METRICS[_name(monitor)].higher_is_better else "lowest"
    why = f"{rank} {monitor} of {len(runs)} {what}"
    if not learned:
        return Choice(best, f"{why}, none of which has learned some segmentation")
    passed_over = ranked[: ranked.index(best)]
    return Choice(
        best, f"{why} that have learned some segmentation; {_why_not(passed_over, split)}" if passed_over else why
    )


def of_model(run: ReportedRun, metric: str) -> float:
    """Return a metric such as `val/loss` of the model that a run kept; NaN if it is unknown."""
    name = _name(metric)
    stored = (run.json(f"reliability/{run.config.get('val_split', 'val')}.json") or {}).get("metrics", {}).get(name)
    names = (f"val_model/{name}", f"best/{name}")  # the second of earlier versions
    found = [stored, *(run.metrics.get(each) for each in names)]
    return next((float(value) for value in found if value is not None), math.nan)


def _ranked(runs: Sequence[ReportedRun], monitor: str) -> list[ReportedRun]:
    """Return runs with the best first; equal ones in the order of `TIES`, runs without a value last."""

    def key(run: ReportedRun) -> list[float]:
        values = {metric: of_model(run, metric) for metric in (monitor, *TIES)}
        return [
            math.inf if math.isnan(value) else (-value if is_better(metric, 1.0, 0.0) else value)
            for metric, value in values.items()
        ]

    return sorted(runs, key=key)


def _why_not(runs: Sequence[ReportedRun], split: str) -> str:
    return "; ".join(f"{run.name} ({run.run_id[:8]}) {learned_nothing(run, split)}" for run in runs)


def _name(metric: str) -> str:
    return metric.removeprefix("val/")
