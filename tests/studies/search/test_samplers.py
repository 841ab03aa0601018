"""Which sampler and pruner are taken, and what they do; with ask and tell, where no training is needed."""

import itertools
import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Study
from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from segmentation.errors import InputError
from studies.config import TrainConfig, TuneConfig
from studies.search import space as spaces
from studies.search.samplers import IDLE, RETRY_OF, SeededByTrial, build_pruner
from studies.search.storage import retry

SPACE = spaces.parse("learning_rate,weight_decay", TrainConfig(), grid=False)


def new_study(kind: str = "tpe", seed: int = 0, **values: Any) -> Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=SeededByTrial(kind, seed), pruner=build_pruner(TuneConfig(**values), 1))


def loss(values: dict[str, float]) -> float:
    """Best at a learning rate of 0.03 without weight decay."""
    return abs(math.log10(values["learning_rate"] / 0.03)) + 5 * values["weight_decay"]


def search(study: Study, trials: int) -> list[float]:
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append(loss(spaces.suggest(trial, SPACE)))
        study.tell(trial, found[-1])
    return found


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_the_same_seed_searches_alike_and_another_one_does_not(kind: str) -> None:
    first, second, other = (search(new_study(kind, seed), 7) for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert len(set(first)) == 7


@pytest.mark.parametrize(("kind", "seeds"), [("tpe", 5), ("gp", 1)])
def test_a_sampler_learns(kind: str, seeds: int) -> None:
    found = np.array([search(new_study(kind, seed), 15) for seed in range(seeds)])
    assert found[:, 10:].mean() < 0.7 * found[:, :5].mean()


def test_an_interrupted_trial_changes_nothing_of_what_follows() -> None:
    whole, broken = new_study(), new_study()
    expected = search(whole, 9)
    found = search(broken, 6)
    trial = broken.ask()
    spaces.suggest(trial, SPACE)
    broken.tell(trial, state=TrialState.FAIL)
    retry(broken, broken.trials[-1])
    found += search(broken, 3)
    assert found == expected
    assert [each.params for each in whole.trials] == [
        each.params for each in broken.trials if each.state == TrialState.COMPLETE
    ]


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
def test_the_pruner_suits_the_sampler(values: dict[str, Any], objectives: int, expected: type) -> None:
    assert isinstance(build_pruner(TuneConfig(**values), objectives), expected)


@pytest.mark.parametrize(
    ("values", "objectives", "message"),
    [
        ({"sampler": "gp", "pruner": "median"}, 1, "learns nothing from pruned trainings"),
        ({"pruner": "halving"}, 2, "nothing can be pruned when there are several objectives"),
    ],
)
def test_pruners_that_cannot_be_are_refused(values: dict[str, Any], objectives: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_pruner(TuneConfig(**values), objectives)


def test_halving_waits_for_curves_that_start_slower() -> None:
    """Of 20 epochs it looks after 4 and 12, and lets the best third go on, or the best while there are fewer."""
    study = new_study("random", epochs=20)
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
def test_the_pruner_decides_alike_however_often_trials_are_interrupted(kind: str, levels: tuple[float, ...]) -> None:
    """An interrupted trial and those that resume it hold the same rungs, and are one training."""

    def pruned_at(interruptions: int) -> list[int]:
        study = new_study("random", epochs=20, pruner=kind)
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
                        retry(study, study.trials[trial.number])  # by two workers at once: the second is idle
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
