"""Trials of a study: the attributes that they store, and how they are counted.

An interrupted trial is resumed by a new Optuna trial, which names the old one in `retry_of`. Both are the same trial
for the user, so `counted_trials` returns such a chain once.
"""

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from studies.search.objectives import Objective

VALUES = "values"
"""Attribute of a trial: values of the searched fields."""
EPOCHS = "epochs"
"""Attribute of a trial: number of epochs trained so far."""
RUN = "mlflow_run_id"
"""Attribute of a trial: ID of its MLflow run."""
METRICS_KEPT = "metrics"
"""Attribute of a trial: metrics of the epoch that gives its value; of the last epoch if it was pruned."""
WORKER = "worker"
"""Attribute of a trial: the process that works on it, as `processes.me` returns it."""
REASON = "reason"
"""Attribute of a trial that did not complete: why. A failed trial without it is queued again."""
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


def best_trial(study: Study, objective: Objective) -> FrozenTrial | None:
    """The best completed trial by an objective, which must be the study's first.

    A feasible trial beats an infeasible one. Of infeasible trials the one with the smallest violation is best.
    """

    def badness(trial: FrozenTrial) -> tuple[float, float]:
        assert trial.values
        violation = max([0.0, *trial.constraints.values()])
        return violation, -trial.values[0] if objective.higher_is_better else trial.values[0]

    return min(in_state(counted_trials(study), TrialState.COMPLETE), key=badness, default=None)
