"""Where studies are kept: what is refused, and what happens to the trials of the dead."""

import time
from contextlib import suppress
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna import Study
from optuna.trial import TrialState, create_trial

from segmentation.errors import InputError
from segmentation.system.processes import me
from studies.config import StudyConfig, TuneConfig
from studies.search import space as spaces
from studies.search import storage as storages
from studies.search.plan import EPOCHS, IDLE, counted, plan
from studies.search.samplers import RETRY_OF, siblings
from studies.search.storage import (
    DEATHS,
    DIED_AT,
    MAX_DEATHS,
    REASON,
    WORKER,
    one_process_only,
    open_storage,
    reap,
    retry_after_death,
    running,
    waits_for_retry,
)
from studies.search.worker import Worker, leaves_to_another
from tests.services.postgres import postgres_server


def at(path: Path) -> StudyConfig:
    return StudyConfig(storage=str(path / "s.journal"))


def of_a_dead_worker(study: Study, epochs: int = 3) -> int:
    """Take a trial in the name of a process that is no more, and had trained so long; returns its number."""
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr(WORKER, me() | {"started": 1.0})
    trial.set_user_attr(EPOCHS, epochs)
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
        assert frozen.user_attrs == {RETRY_OF: dead, DEATHS: 1, DIED_AT: 3, "epochs": 3}
        assert len(study.trials) == 4
        assert len(counted(study)) == 3


def test_a_training_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        for _ in range(MAX_DEATHS):
            of_a_dead_worker(study)
            reap(study)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL] * MAX_DEATHS
        assert len(counted(study)) == 1
        assert not any(waits_for_retry(trial) for trial in counted(study))


def test_a_training_that_gets_on_between_deaths_is_not_given_up(tmp_path: Path) -> None:
    """Machines that are taken away again and again say nothing against a training."""
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        for epochs in range(1, 3 * MAX_DEATHS):
            of_a_dead_worker(study, epochs)
            reap(study)
        assert [trial.state for trial in counted(study)] == [TrialState.WAITING]
        assert counted(study)[0].user_attrs[DEATHS] == 1


def test_what_was_taken_from_the_dead_but_not_put_back_is_found(tmp_path: Path) -> None:
    with open_storage(at(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        study.tell(of_a_dead_worker(study), state=TrialState.FAIL)
        failed = study.ask()
        failed.set_user_attr(REASON, "it was wrong")
        study.tell(failed, state=TrialState.FAIL)
        reap(study)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize("sampler", ["random", "grid"])
@pytest.mark.parametrize("first", ["lower", "higher"])
def test_of_a_trial_that_was_put_back_twice_one_is_done(sampler: str, first: str, tmp_path: Path) -> None:
    """Two workers that find the same dead one at the same moment."""
    config = TuneConfig(storage=at(tmp_path).storage, sampler=sampler, n_trials=None if sampler == "grid" else 9)
    wanted = plan(config)
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name=wanted.name)
        study.enqueue_trial(spaces.points(wanted.space)[0] if wanted.is_grid else spaces.first_guess(wanted.space))
        dead = study.ask()
        spaces.suggest(dead, wanted.space)
        study.tell(dead, state=TrialState.FAIL)
        retry_after_death(study, study.trials[0])
        retry_after_death(study, study.trials[0])
        worker = Worker(study, wanted, parent="", role="search", max_failures=1)
        one, other = study.ask(), study.ask()
        for trial in (one, other) if first == "lower" else (other, one):
            with suppress(RuntimeError):
                worker._leave_if_nothing_is_left(trial, study.trials)
                study.tell(trial, 1.0)
                continue
            study.tell(trial, state=TrialState.FAIL)
        assert [trial.state for trial in study.trials[1:]].count(TrialState.COMPLETE) == 1
        assert [IDLE in trial.user_attrs for trial in study.trials].count(True) == 1
        assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE]


@pytest.mark.parametrize("zone", ["Etc/GMT+9", "Etc/GMT-9"])
def test_a_trial_that_nobody_has_named_is_claimed_for_a_while_in_every_time_zone(
    zone: str, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start that PostgreSQL holds is in the zone of the worker's machine."""
    with open_storage(StudyConfig(storage=postgres), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name=f"claimed in {zone}")
        with pytest.MonkeyPatch.context() as there:
            there.setenv("TZ", zone)
            time.tzset()
            with pytest.warns(UserWarning, match="Heartbeat of storage"):
                study.ask()
        time.tzset()
        reap(study)
        assert len(running(study)) == 1
        monkeypatch.setattr(storages, "CLAIMING_SECONDS", 0.2)
        time.sleep(0.3)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


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


def test_a_connection_that_was_idle_for_too_long_is_replaced(postgres: str) -> None:
    """As a firewall does, or an administrator: an epoch takes longer than an idle connection is kept."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE idle")
        connection.execute("ALTER DATABASE idle SET idle_session_timeout = '2s'")
    with open_storage(StudyConfig(storage=postgres.rpartition("/")[0] + "/idle"), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name="idle")
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            trial = study.ask()
        for epoch in range(2):
            time.sleep(3)
            trial.report(1.0 / (1 + epoch), epoch)
        study.tell(trial, 0.5)
        assert [each.intermediate_values for each in study.trials] == [{0: 1.0, 1: 0.5}]


def test_only_sqlite_is_for_one_process() -> None:
    places = {"sqlite:///s.db": True, "s.journal": False, "postgresql://host/name": False}
    for place, expected in places.items():
        assert one_process_only(place) is expected


def test_a_database_that_goes_away_is_told() -> None:
    def begin_and_stop() -> None:
        with (
            postgres_server() as server,
            open_storage(StudyConfig(storage=server.address), heartbeat=60) as storage,
        ):
            optuna.create_study(storage=storage, study_name="there")
            server.stop()
            optuna.create_study(storage=storage, study_name="gone")

    with pytest.raises(InputError, match="does not answer any more: .*Nothing is lost"):
        begin_and_stop()


@pytest.mark.parametrize("first", ["complete", "pruned", "running", "waiting", "failed"])
def test_a_training_that_two_workers_queued_at_once_is_done_once_though_one_of_them_dies_too(first: str) -> None:
    """Trial 0 is interrupted and queued twice, as 1 and 2; whoever takes 2 dies at once, so that 3 resumes 2."""
    state = TrialState[{"failed": "FAIL"}.get(first, first.upper())]
    study = optuna.create_study()
    distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}

    def add(state: TrialState, **attributes: object) -> None:
        value = 0.5 if state == TrialState.COMPLETE else None
        study.add_trial(
            create_trial(
                state=state, value=value, params={"x": 0.5}, distributions=distributions, user_attrs=dict(attributes)
            )
        )

    add(TrialState.FAIL)
    add(state, **{RETRY_OF: 0} | ({REASON: "the loss is not finite"} if first == "failed" else {}))
    add(TrialState.FAIL, **{RETRY_OF: 0})
    reap(study)
    trials = study.trials
    assert [trial.user_attrs.get(RETRY_OF) for trial in trials] == [None, 0, 0, 2]
    assert [each.number for each in siblings(trials[3], trials)] == [1]
    assert leaves_to_another(trials[3], trials)
    assert not leaves_to_another(trials[1], trials[:3])
    if first != "failed":  # trial 3 waits, until a worker takes it and leaves it
        assert [each.number for each in counted(study)] == [1]
