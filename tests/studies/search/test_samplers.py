"""Samplers are reproducible and learn; with ask and tell, without training."""

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Study
from optuna.trial import TrialState

from studies.config import TrainConfig, TuneConfig
from studies.search.pruners import build_pruner
from studies.search.retries import retry
from studies.search.samplers import SeededByTrial
from studies.search.space import parse_space, suggest

SPACE = parse_space("learning_rate,weight_decay", TrainConfig(), grid=False)


def new_study(kind: str = "tpe", seed: int = 0, **values: Any) -> Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=SeededByTrial(kind, seed, SPACE), pruner=build_pruner(TuneConfig(**values), 1))


def loss(values: dict[str, float]) -> float:
    """Best at a learning rate of 0.03 without weight decay."""
    return abs(math.log10(values["learning_rate"] / 0.03)) + 5 * values["weight_decay"]


def search(study: Study, trials: int) -> list[float]:
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append(loss(suggest(trial, SPACE)))
        study.tell(trial, found[-1])
    return found


@pytest.mark.parametrize("kind", ["tpe", "gp", "random"])
def test_the_seed_decides_what_is_drawn(kind: str) -> None:
    first, second, other = (search(new_study(kind, seed), 7) for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert len(set(first)) == 7


@pytest.mark.parametrize(("kind", "seeds"), [("tpe", 5), ("gp", 1)])
def test_a_sampler_learns(kind: str, seeds: int) -> None:
    found = np.array([search(new_study(kind, seed), 15) for seed in range(seeds)])
    assert found[:, 10:].mean() < 0.7 * found[:, :5].mean()


def test_an_interrupted_trial_does_not_change_later_draws() -> None:
    whole, broken = new_study(), new_study()
    expected = search(whole, 9)
    found = search(broken, 6)
    trial = broken.ask()
    suggest(trial, SPACE)
    broken.tell(trial, state=TrialState.FAIL)
    retry(broken, broken.trials[-1])
    found += search(broken, 3)
    assert found == expected
    assert [each.params for each in whole.trials] == [
        each.params for each in broken.trials if each.state == TrialState.COMPLETE
    ]
