"""Workers that share the end of an epoch budget; with ask and tell, where no training is needed."""

import optuna
import pytest
from optuna import Study, TrialPruned
from optuna.trial import TrialState

from segmentation.metrics import METRICS
from studies import tracking
from studies.config import TuneConfig
from studies.search import space as spaces
from studies.search.plan import EPOCHS, Plan, counted, plan, spent
from studies.search.samplers import SeededByTrial, build_pruner
from studies.search.storage import retry
from studies.search.worker import Worker

EPOCHS_EACH = 20


def new_study(budget: int, pruner: str) -> tuple[Study, Plan]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = TuneConfig(epochs=EPOCHS_EACH, max_epochs_total=budget, pruner=pruner, sampler="random")
    return optuna.create_study(sampler=SeededByTrial("random", 0), pruner=build_pruner(config, 1)), plan(config)


def work_in_turns(study: Study, wanted: Plan, workers: int) -> None:
    """Several workers, each of which does one epoch at a time; all look for work before any of them begins."""
    team = [Worker(study, wanted, parent="", role="search", max_failures=1) for _ in range(workers)]
    at: dict[int, tuple[optuna.Trial, int]] = {}
    while True:
        for index in [index for index in range(workers) if index not in at and wanted.may_start(study)]:
            trial = study.ask()
            try:
                team[index]._leave_if_nothing_is_left(trial, study.trials)
            except (RuntimeError, TrialPruned) as why:
                study.tell(trial, state=TrialState.PRUNED if isinstance(why, TrialPruned) else TrialState.FAIL)
                continue
            spaces.suggest(trial, wanted.space)
            at[index] = trial, study.trials[trial.number].user_attrs.get(EPOCHS, 0)
        if not at:
            return
        for index, (trial, epoch) in list(at.items()):
            at[index] = trial, epoch + 1
            level = trial.number + 1.0
            try:
                team[index]._after(trial, epoch + 1, {f"val/{name}": level for name in METRICS})
            except tracking.Stopped:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                if epoch + 1 < EPOCHS_EACH:
                    continue
                study.tell(trial, level)
            del at[index]


@pytest.mark.parametrize("pruner", ["halving", "none"])
@pytest.mark.parametrize("budget", [20, 24, 39, 40, 70])
def test_every_training_that_workers_begin_can_be_completed(budget: int, pruner: str) -> None:
    """Four workers that begin at once with 20 epochs left would use them up, and complete nothing."""
    study, wanted = new_study(budget, pruner)
    work_in_turns(study, wanted, workers=4)
    ended = {state: [t for t in counted(study) if t.state == state] for state in TrialState}
    assert len(ended[TrialState.COMPLETE]) >= 1
    assert spent(study) <= budget
    assert all(trial.user_attrs[EPOCHS] in (4, 12) for trial in ended[TrialState.PRUNED]), (
        "by the pruner, not the budget"
    )
    if pruner == "none":
        assert len(ended[TrialState.COMPLETE]) == len(counted(study)) == budget // EPOCHS_EACH
    assert wanted.epochs_left(study) == budget - spent(study) < EPOCHS_EACH


def test_what_waits_is_completed_in_turn_when_the_budget_was_made_smaller() -> None:
    study, wanted = new_study(30, "none")
    for trial in [study.ask(), study.ask()]:  # both need 10 more epochs, and 10 are left
        spaces.suggest(trial, wanted.space)
        trial.set_user_attr(EPOCHS, 10)
        study.tell(trial, state=TrialState.FAIL)
        retry(study, study.trials[trial.number])
    work_in_turns(study, wanted, workers=2)
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE, TrialState.PRUNED]
