"""Progress of a study: lines for ended trials, and a table that is logged now and then."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from segmentation.system.processes import me
from studies.config import TuneConfig
from studies.search.plan import make_plan
from studies.search.progress import StudyProgress, duration, time_left
from studies.search.storage import open_storage
from studies.search.trials import EPOCHS, REASON, RETRY_OF, WORKER


def test_the_table_is_logged_for_own_trials_and_not_for_each(tmp_path: Path) -> None:
    """Otherwise a thousand workers would each write a thousand rows a thousand times."""
    config = TuneConfig(storage=str(tmp_path / "s.journal"), n_trials=100)
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage)
        logged: list[int] = []
        with StudyProgress(study, make_plan(config), lambda: logged.append(len(study.trials))) as progress:
            for number in range(40):
                trial = study.ask()
                trial.set_user_attr(WORKER, me() | ({"pid": 1} if number < 20 else {}))
                trial.set_user_attr(EPOCHS, 1)
                study.tell(trial, state=TrialState.PRUNED)
                progress.update()
    assert logged[0] == 21
    assert 1 <= len(logged) < 10


def test_each_ended_trial_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study()
    with StudyProgress(study, make_plan(TuneConfig(search="learning_rate")), lambda: None) as progress:
        for retry_of in (None, None, 1):
            trial = study.ask()
            trial.suggest_float("learning_rate", 0.05, 0.05)
            if trial.number == 0:
                study.tell(trial, 0.5)
                progress.update()
                continue
            if retry_of is not None:
                trial.set_user_attr(REASON, "pruned at epoch 1")
                trial.set_user_attr(RETRY_OF, retry_of)
            study.tell(trial, state=TrialState.FAIL if retry_of is None else TrialState.PRUNED)
        progress.update()
    assert capsys.readouterr().out.splitlines() == [
        "trial 0, learning_rate=0.05: val/loss 0.5000, best so far",
        "trial 2 (resumes trial 1), learning_rate=0.05: pruned at epoch 1",
    ]


def test_the_time_left_is_known_after_the_first_epoch() -> None:
    """One trial of 4 epochs ended, one has trained 1 of 4: 5 of 40 epochs in 10 s, of which one was there before."""
    plan = make_plan(TuneConfig(dataset="shapes", epochs=4, max_epochs_total=40))
    study = optuna.create_study()
    assert time_left(study, plan, 0, 1.0) is None
    study.add_trial(create_trial(value=1.0, user_attrs={EPOCHS: 4}))
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={EPOCHS: 1}))
    line = time_left(study, plan, 1, 10.0)
    assert line == "  1 trial and 5 of at most 40 epochs done, 35 left: at most 1:28 min"
    assert time_left(study, plan, 5, 10.0) is None
    assert duration(3 * 3600 + 62) == "3:01:02 h"
