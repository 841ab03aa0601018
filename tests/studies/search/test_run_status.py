"""The status of each MLflow run of a study agrees with its trial, however its worker ended."""

from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from segmentation.system.processes import me
from studies import tracking
from studies.config import StudyConfig
from studies.search.retries import MAX_DEATHS, reap
from studies.search.run_status import GIVEN_UP, NEVER_STARTED, WAITING, update_all_runs
from studies.search.storage import open_storage
from studies.search.trials import REASON, RUN, WORKER

pytestmark = pytest.mark.slow

DEAD = {"started": 1.0}


def test_every_run_has_the_status_of_its_trial(tmp_path: Path) -> None:
    with open_storage(StudyConfig(storage=str(tmp_path / "s.journal")), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        parent = tracking.create_run("statuses", "study", {})
        runs = {}

        def start(name: str) -> optuna.Trial:
            runs[name] = tracking.create_run("statuses", name, {}, parent)
            trial = study.ask()
            trial.set_user_attr(RUN, runs[name])
            trial.set_user_attr(WORKER, me())
            return trial

        study.tell(start("complete"), 1.0)  # its worker was presumed dead, but finished
        tracking.end_run(runs["complete"], "KILLED", "presumed dead")
        pruned = start("pruned")
        pruned.set_user_attr(REASON, "worse than the median")
        study.tell(pruned, state=TrialState.PRUNED)
        running = start("running")
        for death in range(MAX_DEATHS):
            dead = start("given up") if death == 0 else study.ask()
            dead.set_user_attr(WORKER, me() | DEAD)
            reap(study)
        start("waiting").set_user_attr(WORKER, me() | DEAD)
        reap(study)
        runs["never started"] = tracking.create_run("statuses", "its worker died at once", {}, parent)

        update_all_runs(study, None, parent)
        assert _status(runs["never started"])[0] == "RUNNING"  # a running worker may still store it in its trial
        study.tell(running, 2.0)
        update_all_runs(study, None, parent)
    assert {name: _status(run_id) for name, run_id in runs.items()} == {
        "complete": ("FINISHED", None), "pruned": ("KILLED", "worse than the median"), "running": ("FINISHED", None),
        "given up": ("FAILED", GIVEN_UP), "waiting": ("KILLED", WAITING), "never started": ("FAILED", NEVER_STARTED),
    }  # fmt: skip


def _status(run_id: str) -> tuple[str, str | None]:
    run = MlflowClient().get_run(run_id)
    return run.info.status, run.data.tags.get("status_reason")
