"""Where studies are kept: what is refused, and what happens to the trials of the dead."""

import time
from pathlib import Path

import optuna
import pytest
from optuna import Study
from optuna.trial import TrialState

from segmentation.config import StudyConfig
from segmentation.errors import InputError
from studies.search.plan import counted
from studies.search.samplers import RETRY_OF
from studies.search.storage import (
    DEATHS,
    MAX_DEATHS,
    REASON,
    WORKER,
    me,
    one_process_only,
    open_storage,
    reap,
    repair,
    running,
)
from tests.studies.search.conftest import postgres_server


def at(path: Path) -> StudyConfig:
    return StudyConfig(storage=str(path / "s.journal"))


def of_a_dead_worker(study: Study) -> int:
    """Take a trial in the name of a process that is no more; returns its number."""
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr(WORKER, me() | {"started": 1.0})
    trial.set_user_attr("epochs", 3)
    return trial.number


def test_the_trial_of_a_dead_worker_waits_to_be_gone_on_with(tmp_path: Path) -> None:
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        alive = study.ask()
        alive.set_user_attr(WORKER, me())
        elsewhere = study.ask()
        elsewhere.set_user_attr(WORKER, me() | {"host": "another", "started": 1.0})
        dead = of_a_dead_worker(study)
        reap(study)
        reap(study)
        assert [trial.number for trial in running(study)] == [alive.number, elsewhere.number]
        again = study.ask()
        frozen = study.trials[again.number]
        assert frozen.params == study.trials[dead].params
        assert frozen.user_attrs == {RETRY_OF: dead, DEATHS: 1, "epochs": 3}
        assert len(study.trials) == 4
        assert len(counted(study)) == 3


def test_a_training_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        for _ in range(MAX_DEATHS):
            of_a_dead_worker(study)
            reap(study)
        repair(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL] * MAX_DEATHS
        assert len(counted(study)) == 1


def test_what_was_taken_from_the_dead_but_not_put_back_is_found(tmp_path: Path) -> None:
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        study.tell(of_a_dead_worker(study), state=TrialState.FAIL)
        failed = study.ask()
        failed.set_user_attr(REASON, "it was wrong")
        study.tell(failed, state=TrialState.FAIL)
        repair(study)
        repair(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]


def test_a_worker_on_another_machine_is_known_by_its_heartbeat(postgres: str) -> None:
    with open_storage(StudyConfig(storage=postgres), heartbeat=1) as storage:
        study = optuna.create_study(storage=storage, study_name="heartbeat")
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr(WORKER, me() | {"host": "another"})
        storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        reap(study)
        assert [each.state for each in study.trials] == [TrialState.RUNNING]
        time.sleep(3)
        reap(study)
        assert [each.state for each in study.trials] == [TrialState.FAIL, TrialState.WAITING]
        assert study.trials[1].user_attrs[RETRY_OF] == 0


def test_only_sqlite_is_for_one_process() -> None:
    places = {"sqlite:///s.db": True, "s.journal": False, "postgresql://host/name": False}
    for place, expected in places.items():
        assert one_process_only(place) is expected


def test_a_database_that_goes_away_is_told() -> None:
    def begin_and_stop() -> None:
        with (
            postgres_server() as (address, stop),
            open_storage(StudyConfig(storage=address), heartbeat=60) as storage,
        ):
            optuna.create_study(storage=storage, study_name="there")
            stop()
            optuna.create_study(storage=storage, study_name="gone")

    with pytest.raises(InputError, match="does not answer any more: .*Nothing is lost"):
        begin_and_stop()
