"""The statuses of a study's MLflow runs, however its workers have ended."""

from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState

from segmentation.system.processes import me
from studies import tracking
from studies.config import StudyConfig, TuneConfig
from studies.search.live import Live
from studies.search.plan import EPOCHS, RUN, plan
from studies.search.statuses import AGAIN, NEVER, WAITS, settle_all
from studies.search.storage import MAX_DEATHS, REASON, WORKER, open_storage, reap


def test_every_run_tells_what_became_of_its_trial(tmp_path: Path) -> None:
    with open_storage(StudyConfig(storage=str(tmp_path / "s.journal")), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        parent = tracking.create_run("statuses", "study", {})
        runs = {}

        def begun(name: str) -> optuna.Trial:
            runs[name] = tracking.create_run("statuses", name, {}, parent)
            trial = study.ask()
            trial.set_user_attr(RUN, runs[name])
            trial.set_user_attr(WORKER, me())
            return trial

        study.tell(begun("complete"), 1.0)  # its worker was stopped, taken for dead, and has woken up again
        tracking.end_run(runs["complete"], "KILLED", "another goes on")
        pruned = begun("pruned")
        pruned.set_user_attr(REASON, "behind the others")
        study.tell(pruned, state=TrialState.PRUNED)
        at_work = begun("at work")
        for death in range(MAX_DEATHS):
            dead = begun("given up") if death == 0 else study.ask()
            dead.set_user_attr(WORKER, me() | {"started": 1.0})
            reap(study)
        begun("waiting").set_user_attr(WORKER, me() | {"started": 1.0})
        reap(study)
        runs["forgotten"] = tracking.create_run("statuses", "its worker died at once", {}, parent)

        settle_all(study, None, parent)
        assert _told(runs["forgotten"])[0] == "RUNNING"  # perhaps its trial will soon be told so
        study.tell(at_work, 2.0)
        settle_all(study, None, parent)
    assert {name: _told(run_id) for name, run_id in runs.items()} == {
        "complete": ("FINISHED", None), "pruned": ("KILLED", "behind the others"), "at work": ("FINISHED", None),
        "given up": ("FAILED", AGAIN), "waiting": ("KILLED", WAITS), "forgotten": ("FAILED", NEVER),
    }  # fmt: skip


def _told(run_id: str) -> tuple[str, str | None]:
    run = MlflowClient().get_run(run_id)
    return run.info.status, run.data.tags.get("status_reason")


def test_the_table_of_all_trials_is_written_by_who_did_one_and_not_all_the_time(tmp_path: Path) -> None:
    """Of a thousand workers each would otherwise write a thousand rows a thousand times."""
    config = TuneConfig(storage=str(tmp_path / "s.journal"), n_trials=100)
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        written: list[int] = []
        with Live(study, plan(config), lambda: written.append(len(study.trials))) as live:
            for number in range(40):
                trial = study.ask()
                trial.set_user_attr(WORKER, me() | ({"pid": 1} if number < 20 else {}))
                trial.set_user_attr(EPOCHS, 1)
                study.tell(trial, state=TrialState.PRUNED)
                live.show()
    assert written[0] == 21
    assert 1 <= len(written) < 10
