"""MLflow status of the runs of a study's trials, kept equal to the state of each trial."""

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from studies import tracking
from studies.search.trials import IDLE, RETRY_OF, RUN, reason_of, running_trials

STATUSES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
GIVEN_UP = "given up: several workers in a row died in this trial"
WAITING = "its worker died; the trial continues when the study is resumed"
NEVER_STARTED = "its worker died before the trial started"


def update_run(study: Study, run_id: str) -> None:
    """Set the status of one run from the last trial in it.

    A worker that was presumed dead closes a run that another worker may already have resumed.
    """
    last = _last_trials(study).get(run_id)
    if last is not None and last.state == TrialState.RUNNING:
        tracking.reopen_run(run_id)
    elif last is not None:
        _end(run_id, last)


def update_all_runs(study: Study, confirmed: Study | None, parent: str) -> None:
    """Set the status of every run below the study's run from its trial, except runs of running trials.

    Args:
        study: the study.
        confirmed: the study of further seeds, whose runs have the same parent.
        parent: ID of the study's MLflow run.
    """
    studies = [study] if confirmed is None else [study, confirmed]
    found = tracking.runs_tagged("mlflow.parentRunId", parent)
    last = {run_id: trial for each in studies for run_id, trial in _last_trials(each).items()}
    any_running = any(running_trials(each) for each in studies)
    for run in found:
        trial = last.get(run.run_id)
        if trial is None:
            if run.status == "RUNNING" and not any_running:  # a run exists before its trial stores the run's ID
                tracking.end_run(run.run_id, "FAILED", NEVER_STARTED)
        elif trial.state == TrialState.WAITING and run.status == "RUNNING":
            tracking.end_run(run.run_id, "KILLED", WAITING)
        elif trial.state in STATUSES and run.status != STATUSES[trial.state]:
            _end(run.run_id, trial)


def _end(run_id: str, trial: FrozenTrial) -> None:
    status = STATUSES.get(trial.state, "KILLED")
    reason = reason_of(trial, GIVEN_UP if status == "FAILED" else WAITING)
    tracking.end_run(run_id, status, None if status == "FINISHED" else reason)


def _last_trials(study: Study) -> dict[str, FrozenTrial]:
    """The last trial in each MLflow run, without trials that another one resumes, perhaps in a later fold's run."""
    trials = study.get_trials(deepcopy=False)
    resumed = {trial.user_attrs.get(RETRY_OF) for trial in trials if IDLE not in trial.user_attrs}
    last = (trial for trial in trials if IDLE not in trial.user_attrs and trial.number not in resumed)
    return {trial.user_attrs[RUN]: trial for trial in last if RUN in trial.user_attrs}
