"""Which pruner is used, and which trials it stops; with ask and tell, without training."""

import itertools
from typing import Any

import optuna
import pytest
from optuna import Study
from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from segmentation.errors import InputError
from studies.config import TuneConfig
from studies.search.pruners import build_pruner
from studies.search.retries import retry
from studies.search.samplers import SeededByTrial
from studies.search.trials import IDLE, RETRY_OF


def new_study(**values: Any) -> Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=SeededByTrial("random", 0), pruner=build_pruner(TuneConfig(**values), 1))


@pytest.mark.parametrize(
    ("values", "objectives", "expected"),
    [
        ({}, 1, SuccessiveHalvingPruner),
        ({"sampler": "random"}, 1, SuccessiveHalvingPruner),
        ({"sampler": "gp"}, 1, NopPruner),
        ({"sampler": "grid"}, 1, NopPruner),
        ({}, 2, NopPruner),
        ({"pruner": "none"}, 1, NopPruner),
        ({"pruner": "median"}, 1, MedianPruner),
        ({"pruner": "halving", "sampler": "grid"}, 1, SuccessiveHalvingPruner),
    ],
)
def test_the_pruner_fits_the_sampler(values: dict[str, Any], objectives: int, expected: type) -> None:
    assert isinstance(build_pruner(TuneConfig(**values), objectives), expected)


@pytest.mark.parametrize(
    ("values", "objectives", "message"),
    [
        ({"sampler": "gp", "pruner": "median"}, 1, "pruner=median does not fit sampler=gp"),
        ({"pruner": "halving"}, 2, "pruner=halving needs a single objective"),
    ],
)
def test_pruners_that_do_not_fit_are_refused(values: dict[str, Any], objectives: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_pruner(TuneConfig(**values), objectives)


def test_halving_waits_for_curves_that_start_slowly() -> None:
    """Rungs of 20 epochs are at 4 and 12. Each keeps the best third, or the best one of fewer than three."""
    study = new_study(epochs=20)
    pruned_at = []
    for level in (1.0, 2.0, 0.5, 0.7, 0.4, 0.45):
        trial = study.ask()
        for epoch in itertools.count(1):
            trial.report(level + (10 if epoch < 4 else 0), epoch)
            if trial.should_prune():
                pruned_at.append(epoch)
                study.tell(trial, state=TrialState.PRUNED)
                break
            if epoch == 20:
                pruned_at.append(0)
                study.tell(trial, level)
                break
    assert pruned_at == [0, 4, 0, 4, 0, 12]


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("halving", (0.5, 0.9, 0.8, 0.7, 1.0, 0.6, 0.4, 0.65)), ("median", (1.0, 0.9, 1.1, 0.8, 1.2, 0.95))],
)
def test_interruptions_do_not_change_what_is_pruned(kind: str, levels: tuple[float, ...]) -> None:
    """An interrupted trial and its retries hold the same rungs, and count once."""

    def pruned_at(interruptions: int) -> list[int]:
        study = new_study(epochs=20, pruner=kind)
        found = []
        for level in levels:
            trial, epoch, pruned = study.ask(), 0, False
            while epoch < 20 and not pruned:
                epoch += 1
                trial.report(level + 5 / epoch, epoch)
                pruned = trial.should_prune()
                if epoch in (4, 12) and not pruned:
                    for _ in range(interruptions):
                        study.tell(trial, state=TrialState.FAIL)
                        retry(study, study.trials[trial.number])
                        retry(study, study.trials[trial.number])  # by two workers at once; the second retry is idle
                        idle_after, trial = trial.number, study.ask()
                        idle = study.ask()
                        assert study.trials[trial.number].user_attrs[RETRY_OF] == idle_after
                        idle.set_user_attr(IDLE, True)
                        study.tell(idle, state=TrialState.FAIL)
            found.append(epoch if pruned else 0)
            study.tell(trial, *([] if pruned else [level]), state=TrialState.PRUNED if pruned else None)
        return found

    whole = pruned_at(0)
    assert set(whole) > {0}
    assert pruned_at(1) == pruned_at(3) == whole
