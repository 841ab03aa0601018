"""The MLflow runs of a study's trials, each with the status that its trial says."""

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from studies import tracking
from studies.search.plan import RUN
from studies.search.samplers import IDLE
from studies.search.storage import REASON, running

STATUSES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
AGAIN = "its worker died, again and again"
WAITS = "its worker died; it goes on when the study does"
NEVER = "its worker died before it had begun"


def settle(study: Study, run_id: str) -> None:
    """Give the run of a trial the status that the last trial in it says: whoever was taken for dead has closed it."""
    last = _last_in_runs(study).get(run_id)
    if last is not None and last.state == TrialState.RUNNING:
        tracking.reopen_run(run_id)
    elif last is not None:
        _end(run_id, last)


def settle_all(study: Study, confirmed: Study | None, parent: str) -> None:
    """Give every run below a study's own the status that its trial says, as far as nobody is at it.

    Args:
        study: whose trials they are.
        confirmed: the study that confirms it, whose runs are there, too.
        parent: the study's MLflow run.
    """
    studies = [study] if confirmed is None else [study, confirmed]
    found = tracking.runs_tagged("mlflow.parentRunId", parent)
    last = {run_id: trial for each in studies for run_id, trial in _last_in_runs(each).items()}
    at_work = any(running(each) for each in studies)
    for run in found:
        trial = last.get(run.run_id)
        if trial is None:
            if run.status == "RUNNING" and not at_work:  # a run is made before its trial is told so
                tracking.end_run(run.run_id, "FAILED", NEVER)
        elif trial.state == TrialState.WAITING and run.status == "RUNNING":
            tracking.end_run(run.run_id, "KILLED", WAITS)
        elif trial.state in STATUSES and run.status != STATUSES[trial.state]:
            _end(run.run_id, trial)


def _end(run_id: str, trial: FrozenTrial) -> None:
    status = STATUSES.get(trial.state, "KILLED")
    reason = trial.user_attrs.get(REASON, {"FAILED": AGAIN, "KILLED": WAITS}.get(status))
    tracking.end_run(run_id, status, None if status == "FINISHED" else reason)


def _last_in_runs(study: Study) -> dict[str, FrozenTrial]:
    """For each MLflow run the last trial that is in it."""
    trials = (trial for trial in study.get_trials(deepcopy=False) if IDLE not in trial.user_attrs)
    return {trial.user_attrs[RUN]: trial for trial in trials if RUN in trial.user_attrs}
