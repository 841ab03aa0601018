"""Searches are replayed on the curves that were measured, epoch by epoch."""

import itertools
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner, ThresholdPruner
from optuna.samplers import RandomSampler

from benchmarks.search_cost import Curves, Method, grid_cost, read_curves, search_cost, target
from studies.base import original_report as published

RATES, DECAYS, EPOCHS = (0.0001, 0.001, 0.01, 0.05), (0.0, 0.001, 0.01, 0.05), 4


def curves(losses: np.ndarray | None = None) -> Curves:
    """Those of the grid, all alike unless they are given."""
    return Curves(RATES, DECAYS, np.full((4, 4, EPOCHS), 1.0) if losses is None else losses)


def written(folder: Path, points: list[tuple[float, float]]) -> Path:
    file = folder / "curves.csv"
    rows = [f"{rate},{decay},{epoch},{rate + decay + 1 / epoch}" for rate, decay in points for epoch in (1, 2)]
    file.write_text("\n".join(["learning_rate,weight_decay,epoch,val/loss", *rows]))
    return file


def test_a_measured_point_is_returned_as_it_is() -> None:
    losses = np.random.default_rng(0).uniform(0.3, 3, (4, 4, EPOCHS))
    for (row, rate), (column, decay) in itertools.product(enumerate(RATES), enumerate(DECAYS)):
        np.testing.assert_array_equal(curves(losses).at(rate, decay), losses[row, column])
    np.testing.assert_array_equal(curves(losses).at(0.1, 1.0), losses[-1, -1])
    np.testing.assert_array_equal(curves(losses).at(0.00001, 0.00001), losses[0, 0])


def test_the_nearest_training_is_replayed() -> None:
    """Nearest by ratios; no weight decay stands at 0.0001, one decade below the lowest other."""
    losses = np.random.default_rng(0).uniform(0.3, 3, (4, 4, EPOCHS))
    for (rate, decay), cell in {
        (0.0031, 0.01): (1, 2), (0.0033, 0.01): (2, 2), (0.01, 0.0003): (2, 0), (0.01, 0.00033): (2, 1),
        (0.022, 0.0): (2, 0), (0.023, 0.0): (3, 0),
    }.items():  # fmt: skip
        np.testing.assert_array_equal(curves(losses).at(rate, decay), losses[cell])


def test_a_training_ends_where_it_diverges() -> None:
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[3, 0, 2:] = np.nan
    np.testing.assert_array_equal(curves(losses).at(0.05, 0.0), [1, 1, np.nan])
    np.testing.assert_array_equal(curves(losses).at(0.01, 0.0), [1, 1, 1, 1])


def test_the_largest_complete_lattice_is_read(tmp_path: Path) -> None:
    grid = [(cell.learning_rate, cell.weight_decay) for cell in published.GRID]
    whole_line = [(0.003, decay) for decay in DECAYS]
    read = read_curves(written(tmp_path, [*whole_line, (0.003, 0.02), (0.1, 0.0), *grid]))
    assert (read.rates, read.decays, read.epochs) == ([0.0001, 0.001, 0.003, 0.01, 0.05], list(DECAYS), 2)
    np.testing.assert_allclose(read.at(0.003, 0.01), [1.013, 0.513])
    assert target(read) == pytest.approx(0.5001 + 0.01)
    with pytest.raises(SystemExit, match=r"\(0\.05, 0\.05\)"):
        read_curves(written(tmp_path, [point for point in grid if point != (0.05, 0.05)]))


def test_the_grid_takes_as_long_as_its_order_says() -> None:
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[2, 1, 1] = 0.5
    costs = [grid_cost(curves(losses), 0.51, seed) for seed in range(400)]
    assert set(costs) == {EPOCHS * place for place in range(1, 17)}
    assert np.mean(costs) == pytest.approx(EPOCHS * 8.5, rel=0.1)
    losses[0, 0, 1:] = np.nan  # this one takes 2 epochs
    assert max(grid_cost(curves(losses), 0.51, seed) for seed in range(400)) == EPOCHS * 16 - 2


def test_only_finished_trainings_count_and_pruned_ones_cost() -> None:
    """Compared with the same random settings, looked at one by one."""
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[:2] = [3.0, 0.4, 1.0, 1.0]  # the best of all, but pruned after the first epoch
    losses[3, 1] = [1.0, 1.0, 0.5, 0.9]
    method = Method(RandomSampler, lambda epochs: ThresholdPruner(upper=2.0), begins_with_defaults=False)
    for seed in range(20):
        replayed: list[float] = []
        study = optuna.create_study(sampler=RandomSampler(seed))
        expected = 0
        while not replayed:
            trial = study.ask()
            rate = trial.suggest_float("learning_rate", 0.0001, 0.1, log=True)
            decay = trial.suggest_float("weight_decay", 0.00001, 0.05, log=True)
            curve = curves(losses).at(float(f"{rate:.3g}"), float(f"{decay:.3g}") if decay >= 0.0001 else 0.0)
            pruned = curve[0] > 2.0
            expected += 1 if pruned else EPOCHS
            replayed = [] if pruned or curve.min() > 0.8 else [curve.min()]
            study.tell(trial, 1.0)
        assert search_cost(curves(losses), 0.8, method, seed) == (expected if expected <= 64 else math.inf)


def test_the_last_epoch_is_not_reported_and_the_best_so_far_can_be() -> None:
    losses = np.full((4, 4, EPOCHS), [1.0, 5.0, 1.0, 5.0])
    method = Method(RandomSampler, lambda epochs: ThresholdPruner(upper=2.0), begins_with_defaults=False)
    assert search_cost(curves(losses), 1.0, method, 0) == math.inf
    by_best = Method(RandomSampler, lambda epochs: ThresholdPruner(upper=2.0), reports_best=True)
    assert search_cost(curves(losses), 1.0, by_best, 0) == EPOCHS
    losses[..., 1] = 1.0
    assert search_cost(curves(losses), 1.0, method, 0) == EPOCHS


def test_what_is_to_be_tried_first_is() -> None:
    losses = np.full((4, 4, EPOCHS), 1.0)
    losses[2, 0] = 0.5
    first = {"learning_rate": 0.01, "weight_decay": 0.00001}
    assert search_cost(curves(losses), 0.5, Method(RandomSampler, lambda epochs: NopPruner(), first), 0) == EPOCHS
