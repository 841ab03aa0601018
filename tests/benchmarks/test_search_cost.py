"""Searches are replayed on measured learning curves."""

import math

import numpy as np
import optuna
from optuna.pruners import ThresholdPruner
from optuna.samplers import RandomSampler

from benchmarks.search_cost import Curves, Method, grid_cost, search_cost

RATES, DECAYS, EPOCHS = (0.0001, 0.001, 0.01, 0.05), (0.0, 0.001, 0.01, 0.05), 4


def curves(losses: np.ndarray) -> Curves:
    return Curves(RATES, DECAYS, losses)


def test_the_nearest_curve_is_replayed() -> None:
    """Nearest in logarithms; a weight decay of 0 counts as 0.0001, one decade below the lowest other."""
    losses = np.random.default_rng(0).uniform(0.3, 3, (4, 4, EPOCHS))
    for (rate, decay), cell in {
        (0.0031, 0.01): (1, 2), (0.0033, 0.01): (2, 2), (0.01, 0.0003): (2, 0), (0.01, 0.00033): (2, 1),
        (0.022, 0.0): (2, 0), (0.023, 0.0): (3, 0),
    }.items():  # fmt: skip
        np.testing.assert_array_equal(curves(losses).at(rate, decay), losses[cell])


def test_only_complete_trials_reach_the_goal_and_pruned_ones_cost() -> None:
    """Compared with the same random trials, replayed one by one."""
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[:2] = [3.0, 0.4, 1.0, 1.0]  # the best of all, but pruned after the first epoch
    losses[3, 1] = [1.0, 1.0, 0.5, 0.9]
    method = Method(RandomSampler, lambda epochs: ThresholdPruner(upper=2.0), starts_with_defaults=False)
    for seed in range(20):
        replayed: list[float] = []
        study = optuna.create_study(sampler=RandomSampler(seed))
        expected = 0
        while not replayed:
            trial = study.ask()
            rate = trial.suggest_float("learning_rate", 0.0001, 0.1, log=True)
            decay = trial.suggest_float("weight_decay", 0.0, 0.05)
            curve = curves(losses).at(float(f"{rate:.3g}"), float(f"{decay:.3g}"))
            pruned = curve[0] > 2.0
            expected += 1 if pruned else EPOCHS
            replayed = [] if pruned or curve.min() > 0.8 else [curve.min()]
            study.tell(trial, 1.0)
        assert search_cost(curves(losses), 0.8, method, seed) == (expected if expected <= 64 else math.inf)


def test_the_grid_costs_the_epochs_of_its_random_order() -> None:
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[2, 1, 1] = 0.5
    costs = [grid_cost(curves(losses), 0.51, seed) for seed in range(400)]
    assert set(costs) == {EPOCHS * position for position in range(1, 17)}
    assert abs(np.mean(costs) / (EPOCHS * 8.5) - 1) < 0.1
