"""Several workers at the end of an epoch budget; with ask and tell, without training."""

import optuna
import pytest
from optuna import Study, TrialPruned
from optuna.trial import TrialState

from segmentation.metrics import METRICS
from studies import tracking
from studies.config import TuneConfig
from studies.search.budget import epochs_left, epochs_used, may_start
from studies.search.plan import Plan, make_plan
from studies.search.pruners import build_pruner
from studies.search.retries import retry
from studies.search.samplers import SeededByTrial
from studies.search.space import suggest
from studies.search.trials import EPOCHS, counted_trials
from studies.search.worker import Worker

EPOCHS_EACH = 20


def new_study(budget: int, pruner: str) -> tuple[Study, Plan]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = TuneConfig(epochs=EPOCHS_EACH, max_epochs_total=budget, pruner=pruner, sampler="random")
    return optuna.create_study(sampler=SeededByTrial("random", 0), pruner=build_pruner(config, 1)), make_plan(config)


def work_in_turns(study: Study, plan: Plan, workers: int) -> None:
    """Run several workers, each one epoch in turn. All look for a trial before any of them starts one."""
    crew = [Worker(study, plan, parent="", role="search", max_failures=1) for _ in range(workers)]
    at: dict[int, tuple[optuna.Trial, int]] = {}
    while True:
        for index in [index for index in range(workers) if index not in at and may_start(study, plan)]:
            trial = study.ask()
            try:
                crew[index]._skip_if_redundant(trial, study.trials)
            except (RuntimeError, TrialPruned) as why:
                study.tell(trial, state=TrialState.PRUNED if isinstance(why, TrialPruned) else TrialState.FAIL)
                continue
            suggest(trial, plan.space)
            at[index] = trial, study.trials[trial.number].user_attrs.get(EPOCHS, 0)
        if not at:
            return
        for index, (trial, epoch) in list(at.items()):
            at[index] = trial, epoch + 1
            level = trial.number + 1.0
            try:
                crew[index]._report_epoch(trial, epoch + 1, {f"val/{name}": level for name in METRICS})
            except tracking.Stopped:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                if epoch + 1 < EPOCHS_EACH:
                    continue
                study.tell(trial, level)
            del at[index]


@pytest.mark.parametrize("pruner", ["halving", "none"])
@pytest.mark.parametrize("budget", [20, 24, 39, 40, 70])
def test_every_trial_that_workers_start_can_be_completed(budget: int, pruner: str) -> None:
    """Without reserved epochs, four workers that start with 20 epochs left would complete nothing."""
    study, plan = new_study(budget, pruner)
    work_in_turns(study, plan, workers=4)
    ended = {state: [t for t in counted_trials(study) if t.state == state] for state in TrialState}
    assert len(ended[TrialState.COMPLETE]) >= 1
    assert epochs_used(study) <= budget
    assert all(trial.user_attrs[EPOCHS] in (4, 12) for trial in ended[TrialState.PRUNED]), (
        "by the pruner, not the budget"
    )
    if pruner == "none":
        assert len(ended[TrialState.COMPLETE]) == len(counted_trials(study)) == budget // EPOCHS_EACH
    assert epochs_left(study, plan) == budget - epochs_used(study) < EPOCHS_EACH


def test_waiting_trials_are_completed_in_order_of_a_lowered_budget() -> None:
    study, plan = new_study(30, "none")
    for trial in [study.ask(), study.ask()]:  # both need 10 more epochs, and 10 are left
        suggest(trial, plan.space)
        trial.set_user_attr(EPOCHS, 10)
        study.tell(trial, state=TrialState.FAIL)
        retry(study, study.trials[trial.number])
    work_in_turns(study, plan, workers=2)
    assert [trial.state for trial in counted_trials(study)] == [TrialState.COMPLETE, TrialState.PRUNED]
