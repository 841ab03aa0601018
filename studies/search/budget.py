"""The budget of a study: epochs used, epochs left, and whether another trial may start."""

import math

from optuna import Study
from optuna.trial import TrialState

from studies.search.plan import Plan
from studies.search.trials import EPOCHS, counted_trials


def epochs_used(study: Study) -> int:
    """Number of epochs trained in all trials together."""
    return sum(trial.user_attrs.get(EPOCHS, 0) for trial in counted_trials(study))


def epochs_left(study: Study, plan: Plan, number: int | None = None) -> float:
    """Number of epochs in the budget that are neither used nor reserved; infinite without a budget.

    Running and waiting trials reserve all epochs that they need to complete. Otherwise several workers that share the
    end of a budget would start more trials than any of them could complete.

    Args:
        study: the study with its trials.
        plan: its plan.
        number: a running trial, to compute what is left for it: its own epochs count as used so far, and later trials
            reserve nothing. By default every trial reserves what it needs.
    """
    if plan.max_epochs is None:
        return math.inf
    taken = 0
    for trial in counted_trials(study):
        unfinished = trial.state in (TrialState.RUNNING, TrialState.WAITING)
        if not unfinished or trial.number == number:
            taken += trial.user_attrs.get(EPOCHS, 0)
        elif number is None or trial.number < number:
            taken += plan.trial_epochs
    return plan.max_epochs - taken


def may_start(study: Study, plan: Plan) -> bool:
    """Whether a worker may take another trial, new or waiting in the queue."""
    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return True
    if plan.is_grid:
        return False
    if epochs_left(study, plan) < plan.trial_epochs:
        return False
    return plan.n_trials is None or len(counted_trials(study)) < plan.n_trials


def max_epochs(study: Study, plan: Plan) -> int:
    """Largest number of epochs that the whole study can take."""
    if plan.max_epochs is not None:
        return plan.max_epochs
    trials = len(counted_trials(study)) if plan.n_trials is None else plan.n_trials
    return trials * plan.trial_epochs
