"""Real worker processes, one of them killed during a trial: no trial is lost, and none is run twice."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from studies.config import TuneConfig
from studies.search.plan import make_plan
from studies.search.processes import run_workers
from studies.search.storage import open_storage
from studies.search.study import run_study
from studies.search.trials import IDLE, RETRY_OF, RUN, counted_trials
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow
GRID, POINTS = "learning_rate=0.01|0.1", 2
"""The search space, and its number of grid points."""
WORKERS = 2
"""`python -m tests.faults.workers` does the same with more workers and kills, on PostgreSQL."""


def test_every_grid_point_is_completed_once_though_a_worker_is_killed(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TuneConfig(**tiny(
        own_data, sampler="grid", search=GRID, workers=WORKERS, storage=str(tmp_path / "studies.journal"),
        study_name="killed", epochs=5,
    ))  # fmt: skip
    with open_storage(config, heartbeat=60) as storage:
        killed: list[FrozenTrial] = []
        killer = threading.Thread(target=lambda: killed.append(_kill_one(_study(storage))))
        killer.start()
        run_study(config)
        killer.join()
        printed = capsys.readouterr()
        _check(optuna.load_study(study_name="killed", storage=storage), killed, printed.out + printed.err)


def _check(study: Study, killed: list[FrozenTrial], printed: str) -> None:
    assert printed.count("died by signal 9") == len(killed)
    assert f"{POINTS} complete, 0 pruned, 0 failed" in printed

    trials = counted_trials(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * POINTS
    assert len({tuple(trial.params.values()) for trial in trials}) == POINTS
    assert len([trial for trial in study.trials if IDLE not in trial.user_attrs]) == POINTS + len(killed)
    client = MlflowClient()
    for dead in killed:
        (successor,) = [trial for trial in trials if trial.user_attrs.get(RETRY_OF) == dead.number]
        run_id = dead.user_attrs[RUN]
        assert successor.user_attrs[RUN] == run_id
        assert successor.params == dead.params
        log = mlflow.artifacts.load_text(f"runs:/{run_id}/training.log")
        assert "after epoch" in log
    for trial in trials:
        run = client.get_run(trial.user_attrs[RUN])
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
        assert sorted(steps) == [1, 2, 3, 4, 5]
        assert run.data.tags["mlflow.parentRunId"] == study.user_attrs["mlflow_run_id"]
    experiment = client.get_experiment_by_name("studies")
    assert experiment is not None
    still_open = "attributes.status = 'RUNNING' AND tags.study = 'killed'"
    assert not client.search_runs([experiment.experiment_id], still_open)
    assert client.get_run(study.user_attrs["mlflow_run_id"]).info.status == "FINISHED"


def _study(opened: BaseStorage) -> Study:
    """The study, as soon as it exists."""
    patience = time.monotonic() + 200
    while "killed" not in optuna.get_all_study_names(opened):
        assert time.monotonic() < patience
        time.sleep(0.2)
    return optuna.load_study(study_name="killed", storage=opened)


def _kill_one(study: Study) -> FrozenTrial:
    """Kill a worker between its first and its last epoch; returns its trial."""
    patience = time.monotonic() + 200
    while time.monotonic() < patience:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if 1 <= trial.user_attrs.get("epochs", 0) <= 3:
                os.kill(trial.system_attrs["worker"]["pid"], signal.SIGKILL)
                return study.get_trials(deepcopy=True)[trial.number]
        time.sleep(0.05)
    raise AssertionError("no worker was found between two epochs")


def test_a_crashed_worker_reports_its_traceback(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid value that no check covers: epochs is a string."""
    config = TuneConfig(**tiny(own_data, workers=1, n_trials=1, storage=str(tmp_path / "s.journal")))
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name="there")
        plan = replace(make_plan(config), name="there")
        object.__setattr__(config, "epochs", "many")
        with pytest.raises(InputError, match=r"no worker is left, 1 worker stopped: worker 1 crashed") as caught:
            run_workers(study, plan, config, "", "search", float("inf"))
    for text in (str(caught.value), capsys.readouterr().err):
        assert "TypeError" in text
        assert "in first_rung" in text
