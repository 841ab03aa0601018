"""Trials of dead workers are queued again, once, and given up after several deaths."""

import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from optuna import Study
from optuna.trial import TrialState, create_trial

from segmentation.system.processes import me
from studies.config import StudyConfig, TuneConfig
from studies.search import retries
from studies.search.plan import make_plan
from studies.search.retries import DEATHS, DIED_AT, MAX_DEATHS, is_duplicate, reap, retry_after_death, waits_for_retry
from studies.search.space import first_guess, grid_points, suggest
from studies.search.storage import open_storage
from studies.search.trials import EPOCHS, IDLE, REASON, RETRY_OF, WORKER, counted_trials, running_trials, siblings
from studies.search.worker import Worker


def journal(path: Path) -> StudyConfig:
    return StudyConfig(storage=str(path / "s.journal"))


def start_and_die(study: Study, epochs: int = 3) -> int:
    """Start a trial as a process that no longer exists, after this many epochs; returns its number."""
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr(WORKER, me() | {"started": 1.0})
    trial.set_user_attr(EPOCHS, epochs)
    return trial.number


def test_the_trial_of_a_dead_worker_is_queued_again(tmp_path: Path) -> None:
    with open_storage(journal(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        alive = study.ask()
        alive.set_user_attr(WORKER, me())
        elsewhere = study.ask()
        elsewhere.set_user_attr(WORKER, me() | {"host": "another", "started": 1.0})
        dead = start_and_die(study)
        reap(study)
        reap(study)
        assert [trial.number for trial in running_trials(study)] == [alive.number, elsewhere.number]
        again = study.ask()
        frozen = study.trials[again.number]
        assert frozen.params == study.trials[dead].params
        assert frozen.user_attrs == {RETRY_OF: dead, DEATHS: 1, DIED_AT: 3, "epochs": 3}
        assert len(study.trials) == 4
        assert len(counted_trials(study)) == 3


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with open_storage(journal(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        for _ in range(MAX_DEATHS):
            start_and_die(study)
            reap(study)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL] * MAX_DEATHS
        assert len(counted_trials(study)) == 1
        assert not any(waits_for_retry(trial) for trial in counted_trials(study))


def test_a_trial_that_advances_between_deaths_is_not_given_up(tmp_path: Path) -> None:
    """Preempted machines are not the fault of a trial."""
    with open_storage(journal(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        for epochs in range(1, 3 * MAX_DEATHS):
            start_and_die(study, epochs)
            reap(study)
        assert [trial.state for trial in counted_trials(study)] == [TrialState.WAITING]
        assert counted_trials(study)[0].user_attrs[DEATHS] == 1


def test_a_failed_trial_without_reason_is_queued_again_once(tmp_path: Path) -> None:
    with open_storage(journal(tmp_path), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        study.tell(start_and_die(study), state=TrialState.FAIL)
        failed = study.ask()
        failed.set_user_attr(REASON, "its own fault")
        study.tell(failed, state=TrialState.FAIL)
        reap(study)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize("sampler", ["random", "grid"])
@pytest.mark.parametrize("first", ["lower", "higher"])
def test_of_two_retries_of_a_trial_one_is_run(sampler: str, first: str, tmp_path: Path) -> None:
    """Two workers find the same dead worker at the same moment."""
    config = TuneConfig(storage=journal(tmp_path).storage, sampler=sampler, n_trials=None if sampler == "grid" else 9)
    wanted = make_plan(config)
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name=wanted.name)
        study.enqueue_trial(grid_points(wanted.space)[0] if wanted.is_grid else first_guess(wanted.space))
        dead = study.ask()
        suggest(dead, wanted.space)
        study.tell(dead, state=TrialState.FAIL)
        retry_after_death(study, study.trials[0])
        retry_after_death(study, study.trials[0])
        worker = Worker(study, wanted, parent="", role="search", max_failures=1)
        one, other = study.ask(), study.ask()
        for trial in (one, other) if first == "lower" else (other, one):
            with suppress(RuntimeError):
                worker._skip_if_redundant(trial, study.trials)
                study.tell(trial, 1.0)
                continue
            study.tell(trial, state=TrialState.FAIL)
        assert [trial.state for trial in study.trials[1:]].count(TrialState.COMPLETE) == 1
        assert [IDLE in trial.user_attrs for trial in study.trials].count(True) == 1
        assert [trial.state for trial in counted_trials(study)] == [TrialState.COMPLETE]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Etc/GMT+9", "Etc/GMT-9"])
def test_a_trial_without_a_worker_waits_to_be_claimed_in_every_time_zone(
    zone: str, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL stores the start of a trial in the time zone of its worker's machine."""
    with open_storage(StudyConfig(storage=postgres), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name=f"claimed in {zone}")
        with pytest.MonkeyPatch.context() as there:
            there.setenv("TZ", zone)
            time.tzset()
            with pytest.warns(UserWarning, match="Heartbeat of storage"):
                study.ask()
        time.tzset()
        reap(study)
        assert len(running_trials(study)) == 1
        monkeypatch.setattr(retries, "CLAIMING_SECONDS", 0.2)
        time.sleep(0.3)
        reap(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.slow
def test_a_worker_on_another_machine_is_presumed_dead_without_heartbeat(postgres: str) -> None:
    with open_storage(StudyConfig(storage=postgres), heartbeat=1) as storage:
        study = optuna.create_study(storage=storage, study_name="heartbeat")
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr(WORKER, me() | {"host": "another"})
        storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        reap(study)
        assert [each.state for each in study.trials] == [TrialState.RUNNING]
        time.sleep(2.5)
        reap(study)
        assert [each.state for each in study.trials] == [TrialState.FAIL, TrialState.WAITING]
        assert study.trials[1].user_attrs[RETRY_OF] == 0


@pytest.mark.parametrize("first", ["complete", "pruned", "running", "waiting", "failed"])
def test_a_trial_that_was_queued_twice_is_run_once_though_one_worker_dies(first: str) -> None:
    """Trial 0 is interrupted and queued twice, as 1 and 2; the worker that takes 2 dies at once, so 3 resumes 2."""
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
    assert is_duplicate(trials[3], trials)
    assert not is_duplicate(trials[1], trials[:3])
    if first != "failed":  # trial 3 waits until a worker takes and skips it
        assert [each.number for each in counted_trials(study)] == [1]
