"""Retries: interrupted trials, and trials of workers that died, go back to the queue."""

import time
import warnings
from collections.abc import Sequence
from contextlib import suppress

from optuna import Study
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from segmentation.system.processes import is_dead
from studies.search.trials import EPOCHS, INTERRUPTED, REASON, RETRY_OF, WORKER, siblings, worker_of

DEATHS = "deaths"
"""Attribute of a trial: number of workers in a row that died in it before they finished an epoch."""
DIED_AT = "died_at"
"""Attribute of a trial: number of epochs it had been trained for when a worker last died in it."""
MAX_DEATHS = 3
"""A trial is given up after this many deaths in a row."""
CLAIMING_SECONDS = 60
"""A running trial that names no worker after this many seconds has lost its worker."""
_UNCLAIMED: dict[tuple[str, int], float] = {}
"""When this process first saw a running trial without a worker, by study and number, as of `time.monotonic()`. Times in
the database are of no use: they come from many machines, each in its own time zone."""


def reap(study: Study) -> None:
    """Queue the trials of dead workers again.

    A worker on this machine is dead if its process is gone. A worker on another machine is presumed dead when its
    heartbeat in the database stops.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    dead = [trial for trial in trials if trial.state == TrialState.RUNNING and _is_dead(study, trial)]
    for trial in dead:
        with suppress(UpdateFinishedTrialError, ValueError):  # another worker was faster
            study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, "its worker died; a new trial resumes it")
            study.tell(trial.number, state=TrialState.FAIL)
    if dead:
        trials = study.get_trials(deepcopy=False)
    followed = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        # Another worker may queue it at the same time: the worker that takes the second copy skips it.
        if waits_for_retry(trial) and trial.number not in followed:
            retry_after_death(study, trial)


def waits_for_retry(trial: FrozenTrial) -> bool:
    """Whether a trial failed because its worker died, and is not given up."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs and _deaths(trial) < MAX_DEATHS


def retry_after_death(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial again, unless `MAX_DEATHS` workers in a row have died in it."""
    deaths = _deaths(trial)
    if deaths < MAX_DEATHS:
        retry(study, trial, deaths)


def retry(study: Study, trial: FrozenTrial, deaths: int = 0) -> None:
    """Queue a trial again. The worker that takes it resumes from its checkpoint in the same MLflow run."""
    kept = {name: value for name, value in trial.user_attrs.items() if name not in (WORKER, REASON, INTERRUPTED)}
    kept |= {RETRY_OF: trial.number, DEATHS: deaths, DIED_AT: trial.user_attrs.get(EPOCHS, 0)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=kept,
            system_attrs={name: value for name, value in trial.system_attrs.items() if name not in (WORKER, REASON)},
            intermediate_values=trial.intermediate_values,
        )
    )


def is_duplicate(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether another retry of the same trial has ended, or comes before this one."""
    for sibling in siblings(trial, trials):
        if sibling.state in (TrialState.RUNNING, TrialState.WAITING):
            if sibling.number < trial.number:
                return True
        elif sibling.state != TrialState.FAIL or REASON in sibling.user_attrs:
            return True
    return False


def _deaths(trial: FrozenTrial) -> int:
    """Number of workers in a row that died in a trial, including the latest."""
    advanced = trial.user_attrs.get(EPOCHS, 0) > trial.user_attrs.get(DIED_AT, 0)
    return 1 if advanced else int(trial.user_attrs.get(DEATHS, 0)) + 1


def _is_dead(study: Study, trial: FrozenTrial) -> bool:
    worker = worker_of(trial)
    if not worker:
        first_seen = _UNCLAIMED.setdefault((study.study_name, trial.number), time.monotonic())
        return time.monotonic() - first_seen > CLAIMING_SECONDS
    return is_dead(worker) is True
