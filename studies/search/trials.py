"""Trials of a study: the attributes that they store, and how they are counted.

An interrupted trial is resumed by a new Optuna trial, which names the old one in `retry_of`. Both are the same trial
for the user, so `counted_trials` returns such a chain once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study, Trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from segmentation.metrics import TIES

VAL_IMAGES = "val_images"
"""Attribute of a study: number of images of its validation split."""
VALUES = "values"
"""Attribute of a trial: values of the searched fields."""
EPOCHS = "epochs"
"""Attribute of a trial: number of epochs trained so far."""
RUN = "mlflow_run_id"
"""Attribute of a trial: ID of its MLflow run."""
METRICS_KEPT = "metrics"
"""System attribute of a trial: metrics of the epoch that gives its value; of the last epoch if it was pruned."""
WARNING = "warning"
"""Attribute of a trial: what shows that its model has learned little; missing or empty if nothing does."""
WORKER = "worker"
"""System attribute of a trial: the process that works on it, as `processes.me` returns it."""
REASON = "reason"
"""Attribute of a trial that did not complete: why. A failed trial without it is queued again. The attribute that
dashboards show is cut after `LONGEST` characters; the system attribute of that name holds the whole text."""
LONGEST = 120
"""Most characters of an attribute that dashboards show: longer ones make their tables wider than a screen."""
INTERRUPTED = "interrupted"
"""Attribute of a trial that Optuna calls failed, because its process stopped: a new trial resumes it."""
IDLE = "idle"
"""Attribute of a trial that trained nothing because nothing was left to do."""
RETRY_OF = "retry_of"
"""Attribute of a trial that resumes another one: the number of that one."""

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""Names of the states in which a trial has ended."""


def lineage(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[int]:
    """Numbers of a trial, of the trial that it resumes, of the one that this resumes, and so on to their origin.

    Args:
        trial: the trial.
        trials: all trials of the study, in order of their numbers.
    """
    found = [trial.number]
    while (retry_of := trials[found[-1]].user_attrs.get(RETRY_OF)) is not None:
        found.append(retry_of)
    return found


def siblings(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Other trials with the same origin that this one does not resume.

    Two workers may queue an interrupted trial at the same time, and each of the two may be interrupted again.
    """
    above = lineage(trial, trials)
    others = [other for other in trials if other.number not in above and IDLE not in other.user_attrs]
    return [other for other in others if lineage(other, trials)[-1] == above[-1]]


def each_once(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """One trial for each chain of retries, without idle trials.

    Several trials may resume the same one. The finished one counts, else the first that runs, else the first that
    waits, else the last that failed.

    Args:
        trials: all trials of the study, in order of their numbers.
    """
    chains: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if IDLE not in trial.user_attrs:
            chains.setdefault(lineage(trial, trials)[-1], []).append(trial)

    def rank(trial: FrozenTrial) -> tuple[int, int]:
        order = (TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL)
        failed = trial.state == TrialState.FAIL
        return 1 + order.index(trial.state) if trial.state in order else 0, -trial.number if failed else trial.number

    return sorted((min(chain, key=rank) for chain in chains.values()), key=lambda trial: trial.number)


def counted_trials(study: Study) -> list[FrozenTrial]:
    """The trials of a study, one for each chain of retries."""
    return each_once(study.get_trials(deepcopy=False))


def running_trials(study: Study) -> list[FrozenTrial]:
    """The trials that a worker trains now."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def in_state(trials: Sequence[FrozenTrial], *states: TrialState) -> list[FrozenTrial]:
    """The trials that are in one of the states."""
    return [trial for trial in trials if trial.state in states]


def prescribed_values(trial: FrozenTrial) -> dict[str, Any]:
    """Values that a trial has or is queued with; empty if the sampler has still to draw them."""
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))


def best_trial(study: Study) -> FrozenTrial | None:
    """The best completed trial of a study, which every text, table, plot, tag and model of the study refers to."""
    return next(iter(ranked_trials(study)), None)


def ranked_trials(study: Study) -> list[FrozenTrial]:
    """The completed trials of a study, the best first.

    The first objective decides. Ties are broken by the other objectives in their order, then by the validation loss,
    then by the ECE, then by the lower number. Only equal values tie: several trials that predict one class everywhere,
    for instance, have the same mean IoU. A feasible trial beats an infeasible one. Of infeasible trials the one with
    the smallest violation is best.
    """

    def badness(trial: FrozenTrial) -> tuple[float, ...]:
        signs = (-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions)
        objectives = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        metrics = kept_metrics(trial)
        ties = [metrics.get(metric, math.inf) for metric in TIES]
        return violation(trial), *objectives, *ties, trial.number

    return sorted(in_state(counted_trials(study), TrialState.COMPLETE), key=badness)


def pareto_front(study: Study) -> list[FrozenTrial]:
    """Completed trials that no other one equals or beats in all objectives and beats in one, in order of their values.

    Trials that violate the constraint are left out; if all do, the front is the trial that violates it least.
    """
    best = best_trial(study)
    if best is None or len(study.directions) == 1:
        return [] if best is None else [best]
    return sorted(study.best_trials, key=lambda trial: (trial.values, trial.number)) or [best]


def violation(trial: FrozenTrial) -> float:
    """By how much a trial violates the constraint; 0 if it meets it or there is none."""
    return max([0.0, *trial.constraints.values()])


def only_class_found(metrics: Mapping[str, float]) -> str | None:
    """Name of the single class whose IoU is above 0, although the labels hold several; None if there is no such class.

    Args:
        metrics: of an epoch, with `val/iou/CLASS` of every class; classes without pixels have NaN.
    """
    prefix = "val/iou/"
    present = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    present = {name: value for name, value in present.items() if not math.isnan(value)}
    found = [name for name, value in present.items() if value > 0]
    return found[0] if len(found) == 1 and len(present) > 1 else None


def kept_metrics(trial: FrozenTrial) -> dict[str, float]:
    """Metrics of the epoch that gives a trial its value, and the number of that epoch; empty before the first epoch."""
    earlier_versions = trial.user_attrs.get(METRICS_KEPT, {})
    return dict(trial.system_attrs.get(METRICS_KEPT, earlier_versions))


def reason_of(trial: FrozenTrial, default: str = "") -> str:
    """Why a trial did not complete, uncut; `default` if no reason is stored."""
    return str(trial.system_attrs.get(REASON, trial.user_attrs.get(REASON, default)))


def worker_of(trial: FrozenTrial) -> dict[str, Any]:
    """The process that works on a trial, as `processes.me` returns it; empty if none has taken it."""
    earlier_versions = trial.user_attrs.get(WORKER, {})
    return dict(trial.system_attrs.get(WORKER, earlier_versions))


def store_reason(trial: Trial, reason: str) -> None:
    """Store why a trial did not complete."""
    shown = reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 40]}… (whole text: its MLflow run)"
    store_long(trial, REASON, reason)
    trial.set_user_attr(REASON, shown)


def store_long(trial: Trial, name: str, value: Any) -> None:
    """Store a system attribute, which dashboards do not show."""
    trial.study._storage.set_trial_system_attr(trial._trial_id, name, value)
