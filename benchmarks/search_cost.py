"""Number of epochs that a search needs to reach the best validation loss of the original report's grid.

    python -m benchmarks.search_cost

trains nothing. Each trial is replayed with the nearest measured learning curve in learning_curves/camvid.csv. A search
reaches the goal when a complete trial has a validation loss, at its best epoch, of at most 0.01 above the best of the
grid's 16 trials. Searches differ in their seeds.
"""

import argparse
import csv
import functools
import itertools
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.plots import fraction_reached
from studies.config import TrainConfig, TuneConfig
from studies.search.plan import REPORT_GRID_TRIALS
from studies.search.pruners import REDUCTION_FACTOR, build_pruner, first_rung
from studies.search.samplers import STARTUP_TRIALS, SeededByTrial
from studies.search.space import ZERO_DECADE, Space, first_guess, grid_points, parse_space, suggest

FILE = Path(__file__).parent / "learning_curves" / "camvid.csv"
SEARCHED = "learning_rate,weight_decay"
MARGIN = 0.01
FRACTIONS = 0.25, 0.5, 0.75
"""Fractions of the grid's epochs, at which the table counts the searches."""


@dataclass(frozen=True)
class Curves:
    """Learning curves at every combination of some learning rates and weight decays."""

    rates: Sequence[float]
    """Learning rates from low to high."""
    decays: Sequence[float]
    """Weight decays from low to high."""
    losses: np.ndarray
    """Validation losses `(rates, decays, epochs)`; NaN from the epoch on in which a run diverged."""

    @property
    def epochs(self) -> int:
        """Number of epochs of a run that does not diverge."""
        return int(self.losses.shape[2])

    def at(self, learning_rate: float, weight_decay: float) -> np.ndarray:
        """Validation losses of the nearest measured run; the last one is NaN if it diverged.

        Distances are in logarithms; 0 counts as one decade below the lowest positive weight decay. Curves are not
        interpolated: a mean of two is smoother than either, so its best epoch would be worse than both.
        """
        rate = np.abs(_positions(self.rates) - _positions(self.rates, learning_rate)).argmin()
        decay = np.abs(_positions(self.decays) - _positions(self.decays, weight_decay)).argmin()
        losses: np.ndarray = self.losses[rate, decay]
        diverged = np.flatnonzero(np.isnan(losses))
        return losses[: diverged[0] + 1] if len(diverged) else losses


@dataclass(frozen=True)
class Method:
    """A search method: sampler, pruner and options."""

    sampler: Callable[[int], BaseSampler]
    """Sampler for a seed."""
    pruner: Callable[[int], BasePruner]
    """Pruner for a number of epochs."""
    starts_with_defaults: bool = True
    """Whether the first trial has the defaults of `train`."""
    reports_best: bool = False
    """Whether the pruner compares the best loss so far instead of the current one."""


def read_curves(file: Path) -> Curves:
    """The curves of the largest complete lattice in a file that contains the grid."""
    found = defaultdict(list)
    with file.open() as stream:
        for row in csv.DictReader(stream):
            found[float(row["learning_rate"]), float(row["weight_decay"])].append(float(row["val/loss"]))
    grid = _grid()
    missing = [point for point in grid if point not in found]
    if missing:
        sys.exit(f"{file} lacks grid points {missing}: add them with learning_curves/measure.py")
    rates, decays = (sorted({point[axis] for point in grid}) for axis in (0, 1))
    others = sorted({rate for rate, _ in found} - set(rates))
    lattices = []
    for more in itertools.chain.from_iterable(itertools.combinations(others, n) for n in range(len(others) + 1)):
        all_rates = sorted([*rates, *more])
        all_decays = sorted({decay for _, decay in found if all((rate, decay) in found for rate in all_rates)})
        if set(decays) <= set(all_decays):
            lattices.append((all_rates, all_decays))
    rates, decays = max(lattices, key=lambda lattice: len(lattice[0]) * len(lattice[1]))
    losses = np.full((len(rates), len(decays), max(map(len, found.values()))), np.nan)
    for row, column in np.ndindex(losses.shape[:2]):
        curve = found[rates[row], decays[column]]
        losses[row, column, : len(curve)] = curve
    return Curves(rates, decays, losses)


def target(curves: Curves) -> float:
    """The validation loss that counts as the goal."""
    return min(_value(curves.at(*point)) for point in _grid()) + MARGIN


def grid_cost(curves: Curves, goal: float, seed: int) -> float:
    """Epochs until the grid reaches the goal, with its points in a random order."""
    order = np.random.default_rng(seed).permutation(REPORT_GRID_TRIALS)
    runs = [curves.at(*_grid()[index]) for index in order]
    reached = next(index for index, losses in enumerate(runs) if _value(losses) <= goal)
    return sum(map(len, runs[: reached + 1]))


def search_cost(curves: Curves, goal: float, method: Method, seed: int) -> float:
    """Epochs until a search reaches the goal; infinite if the epochs of the grid do not suffice."""
    most = REPORT_GRID_TRIALS * curves.epochs
    sampler, pruner = method.sampler(seed), method.pruner(curves.epochs)
    study = optuna.create_study(study_name=str(seed), sampler=sampler, pruner=pruner)  # Hyperband hashes the name
    if method.starts_with_defaults:
        study.enqueue_trial(first_guess(_space()))
    spent = 0
    while spent < most:
        trial = study.ask()
        trained, value = _replay(study, trial, curves.at(**suggest(trial, _space())), curves.epochs, method)
        spent += trained
        if value <= goal:
            return spent if spent <= most else math.inf
    return math.inf


def _replay(
    study: optuna.Study, trial: optuna.Trial, losses: np.ndarray, epochs: int, method: Method
) -> tuple[int, float]:
    """Replay a trial like a worker; returns its epochs, and its value, which is infinite unless it is complete."""
    reported = np.fmin.accumulate(losses) if method.reports_best else losses
    for epoch, loss in enumerate(losses, 1):
        diverged = math.isnan(loss)
        if epoch < epochs or diverged:
            trial.report(math.nan if diverged else float(reported[epoch - 1]), epoch)
            if diverged or trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return epoch, math.inf
    value = _value(losses)
    study.tell(trial, value)
    return len(losses), value


def _value(losses: np.ndarray) -> float:
    """Value of a run, the loss of its best epoch; infinite if it diverged."""
    return math.inf if np.isnan(losses).any() else float(losses.min())


def _positions(known: Sequence[float], values: float | Sequence[float] | None = None) -> np.ndarray:
    """Logarithmic positions of values, or of the known values; 0 is one decade below the lowest positive one."""
    zero = min(value for value in known if value > 0) / ZERO_DECADE
    return np.log(np.maximum(known if values is None else values, zero))


@functools.cache
def _space() -> Space:
    return parse_space(SEARCHED, TrainConfig(), grid=False)


@functools.cache
def _grid() -> list[tuple[float, float]]:
    points = grid_points(parse_space(SEARCHED, TrainConfig(), grid=True))
    return [(point["learning_rate"], point["weight_decay"]) for point in points]


def _ours(
    sampler: Literal["tpe", "gp", "random"], pruner: Literal["auto", "halving", "median", "none"] = "auto"
) -> Method:
    """The method of `tune` with this sampler and pruner."""
    return Method(
        lambda seed: SeededByTrial(sampler, seed, _space()),
        lambda epochs: build_pruner(TuneConfig(sampler=sampler, pruner=pruner, epochs=epochs), 1),
    )


def _halving(epochs: int, fraction: int = 5, factor: int = REDUCTION_FACTOR) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=max(1, epochs // fraction), reduction_factor=factor)


def _tpe(seed: int, startup: int = STARTUP_TRIALS, multivariate: bool = True) -> BaseSampler:
    return TPESampler(n_startup_trials=startup, multivariate=multivariate, seed=seed)


def _gp(seed: int, startup: int) -> BaseSampler:
    return GPSampler(n_startup_trials=startup, seed=seed)


def _unpruned(epochs: int) -> BasePruner:
    return NopPruner()


DEFAULT = "tpe, halving (the default)"
GRID = "grid, random order"
MAIN = {
    "random": _ours("random", "none"),
    "random, halving": _ours("random"),
    "tpe, no pruning": _ours("tpe", "none"),
    "tpe, median": _ours("tpe", "median"),
    DEFAULT: _ours("tpe"),
    "tpe, Optuna's default halving": Method(_tpe, lambda epochs: SuccessiveHalvingPruner()),
    "tpe, hyperband": Method(_tpe, lambda epochs: HyperbandPruner(first_rung(epochs), epochs)),
    "gp": _ours("gp"),
}
VARIANTS = {
    "default, one seed for all": Method(_tpe, _halving),
    "default, without train's defaults first": Method(_tpe, _halving, starts_with_defaults=False),
    "default, 5 at random": Method(lambda seed: _tpe(seed, 5), _halving),
    "default, 10 at random": Method(lambda seed: _tpe(seed, 10), _halving),
    "default, to a half": Method(_tpe, lambda epochs: _halving(epochs, factor=2)),
    "default, to a quarter": Method(_tpe, lambda epochs: _halving(epochs, factor=4)),
    "default, to a half, 5 at random, without train's defaults first": Method(
        lambda seed: _tpe(seed, 5), lambda epochs: _halving(epochs, factor=2), starts_with_defaults=False
    ),
    "default, from a tenth on": Method(_tpe, lambda epochs: _halving(epochs, 10)),
    "default, from a third on": Method(_tpe, lambda epochs: _halving(epochs, 3)),
    "default, by best so far": Method(_tpe, _halving, reports_best=True),
    "default, patient": Method(_tpe, lambda epochs: PatientPruner(_halving(epochs), 1)),
    "default, univariate": Method(lambda seed: _tpe(seed, multivariate=False), _halving),
    "sobol, halving": Method(lambda seed: QMCSampler(scramble=True, seed=seed), _halving),
    "gp, 5 at random": Method(lambda seed: _gp(seed, 5), _unpruned),
    "gp, without train's defaults first": Method(
        lambda seed: _gp(seed, STARTUP_TRIALS), _unpruned, starts_with_defaults=False
    ),
    "gp, halving": Method(lambda seed: _gp(seed, STARTUP_TRIALS), _halving),
}
PLOTTED = (GRID, "random", "random, halving", "tpe, no pruning", DEFAULT, "gp")


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore", ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = read_curves(options.curves)
    goal, most = target(curves), REPORT_GRID_TRIALS * curves.epochs
    print(
        f"{len(curves.rates)} x {len(curves.decays)} curves of {curves.epochs} epochs; goal: val/loss {goal:.4f}; the "
        f"grid takes {most} epochs\n"
    )
    print(f"| method | seeds | median | p80 | p90 |{''.join(f' by {fraction * most:g} |' for fraction in FRACTIONS)}")
    print(f"|{' --- |' * (5 + len(FRACTIONS))}", flush=True)
    costs: dict[str, np.ndarray] = {}
    known = MAIN | VARIANTS
    chosen = known if options.all or options.methods else MAIN
    for name in filter(lambda name: options.methods in name, [GRID, *chosen]):
        if name == GRID:
            each = [grid_cost(curves, goal, seed) for seed in range(options.seeds)]
        else:
            each = [search_cost(curves, goal, known[name], seed) for seed in range(options.seeds)]
        costs[name] = np.sort(each)
        print(_row(name, costs[name], most), flush=True)
    if options.plot is not None:
        _draw({name: costs[name] for name in PLOTTED if name in costs}, goal, most, options.plot)


def _row(name: str, costs: np.ndarray, most: int) -> str:
    """A row of the table for sorted costs."""
    quantiles = [costs[math.ceil(quantile * len(costs)) - 1] for quantile in (0.5, 0.8, 0.9)]
    cells = [name, str(len(costs)), *(f"{cost:.0f}" if cost <= most else f"> {most}" for cost in quantiles)]
    cells += [f"{(costs <= fraction * most).mean():.0%}" for fraction in FRACTIONS]
    return f"| {' | '.join(cells)} |"


def _draw(costs: Mapping[str, np.ndarray], goal: float, most: int, file: Path) -> None:
    curves = {}
    for name, each in costs.items():
        reached = each[np.isfinite(each)]
        fraction = np.arange(len(reached) + 1) / len(each)
        curves[name] = np.array([0, *reached, most]), np.append(fraction, fraction[-1])
    figure = fraction_reached(
        curves, [fraction * most for fraction in FRACTIONS[:2]],
        f"Searches that reached the best loss of the grid: val/loss {goal:.3f} or less",
        "epochs used", "fraction of searches",
        f"Dotted lines: a quarter and half of the grid's {most} epochs. Replayed on measured learning curves; the "
        f"searches of a method differ in their seeds.",
    )  # fmt: skip
    figure.savefig(file)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="number of searches for each method")
    parser.add_argument("--methods", default="", help="run only methods whose name contains this, variants included")
    parser.add_argument("--all", action="store_true", help="run the variants, too")
    parser.add_argument("--curves", type=Path, default=FILE, help="CSV file of learning curves")
    parser.add_argument("--plot", type=Path, help="file for the plot of the main methods")
    return parser.parse_args()


if __name__ == "__main__":
    main()
