"""Training epochs that a search takes until it is as good as the original report's grid.

    python benchmarks/search_cost.py

trains nothing: each training is replayed by the nearest that was measured, from learning_curves/camvid.csv. A search
is as good when a training that it finished has a validation loss, at the best of its epochs, of at most 0.01 above that
of the best of the grid's 16 trainings. Searches differ in their seeds.
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

from studies.config import TrainConfig, TuneConfig
from studies.search import plots
from studies.search.plan import REPORT_GRID_TRIALS
from studies.search.pruners import REDUCTION_FACTOR, build_pruner, first_rung
from studies.search.samplers import STARTUP_TRIALS, SeededByTrial
from studies.search.space import ZERO_DECADE, Space, first_guess, grid_points, parse_space, suggest

FILE = Path(__file__).parent / "learning_curves" / "camvid.csv"
SEARCHED = "learning_rate,weight_decay"
MARGIN = 0.01
SHARES = 0.25, 0.5, 0.75
"""Of the grid's epochs."""


@dataclass(frozen=True)
class Curves:
    """Learning curves at every combination of some learning rates and weight decays."""

    rates: Sequence[float]
    """Learning rates from low to high."""
    decays: Sequence[float]
    """Weight decays from low to high."""
    losses: np.ndarray
    """Validation losses `(rates, decays, epochs)`; NaN from the epoch on in which a training diverged."""

    @property
    def epochs(self) -> int:
        """Length of a training that does not diverge."""
        return int(self.losses.shape[2])

    def at(self, learning_rate: float, weight_decay: float) -> np.ndarray:
        """Validation losses of the training that was measured nearest, which ends with a NaN if it diverged.

        Nearest in the logarithms of both; 0 stands one decade below the lowest other weight decay. Curves are not
        mixed: a mean of two is smoother than either, and its best epoch is worse than both.
        """
        rate = np.abs(_places(self.rates) - _places(self.rates, learning_rate)).argmin()
        decay = np.abs(_places(self.decays) - _places(self.decays, weight_decay)).argmin()
        losses: np.ndarray = self.losses[rate, decay]
        diverged = np.flatnonzero(np.isnan(losses))
        return losses[: diverged[0] + 1] if len(diverged) else losses


@dataclass(frozen=True)
class Method:
    """A way to search: Optuna's parts, and what else makes a difference."""

    sampler: Callable[[int], BaseSampler]
    """Made with a seed."""
    pruner: Callable[[int], BasePruner]
    """Made with the epochs of a training."""
    begins_with_defaults: bool = True
    """Whether the defaults of `train` are tried first."""
    reports_best: bool = False
    """Whether trainings are compared by their best loss so far, not by their current one."""


def read_curves(file: Path) -> Curves:
    """The curves of the largest lattice that is complete in a file and holds the grid's."""
    found = defaultdict(list)
    with file.open() as stream:
        for row in csv.DictReader(stream):
            found[float(row["learning_rate"]), float(row["weight_decay"])].append(float(row["val/loss"]))
    grid = _grid()
    missing = [point for point in grid if point not in found]
    if missing:
        sys.exit(f"{file} lacks cells of the grid, which learning_curves/measure.py can add: {missing}")
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
    """The loss that counts as reaching the grid's best."""
    return min(_value(curves.at(*point)) for point in _grid()) + MARGIN


def grid_cost(curves: Curves, goal: float, seed: int) -> float:
    """Epochs until the goal is reached by the grid's trainings in a random order."""
    order = np.random.default_rng(seed).permutation(REPORT_GRID_TRIALS)
    trainings = [curves.at(*_grid()[place]) for place in order]
    reached = next(place for place, losses in enumerate(trainings) if _value(losses) <= goal)
    return sum(map(len, trainings[: reached + 1]))


def search_cost(curves: Curves, goal: float, method: Method, seed: int) -> float:
    """Epochs until the goal is reached by a search; infinite if the grid's epochs do not suffice."""
    most = REPORT_GRID_TRIALS * curves.epochs
    sampler, pruner = method.sampler(seed), method.pruner(curves.epochs)
    study = optuna.create_study(study_name=str(seed), sampler=sampler, pruner=pruner)  # Hyperband hashes the name
    if method.begins_with_defaults:
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
    """Do a trial as a worker does; returns its epochs, and its value if it is finished, or else infinity."""
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
    """A training's value, since its best epoch is kept; infinite if it diverged."""
    return math.inf if np.isnan(losses).any() else float(losses.min())


def _places(known: Sequence[float], values: float | Sequence[float] | None = None) -> np.ndarray:
    """Where values lie on an axis with known ones, or where these do."""
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
    """What a study does that is configured so."""
    return Method(
        lambda seed: SeededByTrial(sampler, seed),
        lambda epochs: build_pruner(TuneConfig(sampler=sampler, pruner=pruner, epochs=epochs), 1),
    )


def _halving(epochs: int, share: int = 5, factor: int = REDUCTION_FACTOR) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=max(1, epochs // share), reduction_factor=factor)


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
    "default, without train's defaults first": Method(_tpe, _halving, begins_with_defaults=False),
    "default, 5 at random": Method(lambda seed: _tpe(seed, 5), _halving),
    "default, 10 at random": Method(lambda seed: _tpe(seed, 10), _halving),
    "default, to a half": Method(_tpe, lambda epochs: _halving(epochs, factor=2)),
    "default, to a quarter": Method(_tpe, lambda epochs: _halving(epochs, factor=4)),
    "default, to a half, 5 at random, without train's defaults first": Method(
        lambda seed: _tpe(seed, 5), lambda epochs: _halving(epochs, factor=2), begins_with_defaults=False
    ),
    "default, from a tenth on": Method(_tpe, lambda epochs: _halving(epochs, 10)),
    "default, from a third on": Method(_tpe, lambda epochs: _halving(epochs, 3)),
    "default, by best so far": Method(_tpe, _halving, reports_best=True),
    "default, patient": Method(_tpe, lambda epochs: PatientPruner(_halving(epochs), 1)),
    "default, univariate": Method(lambda seed: _tpe(seed, multivariate=False), _halving),
    "sobol, halving": Method(lambda seed: QMCSampler(scramble=True, seed=seed), _halving),
    "gp, 5 at random": Method(lambda seed: _gp(seed, 5), _unpruned),
    "gp, without train's defaults first": Method(
        lambda seed: _gp(seed, STARTUP_TRIALS), _unpruned, begins_with_defaults=False
    ),
    "gp, halving": Method(lambda seed: _gp(seed, STARTUP_TRIALS), _halving),
}
PICTURED = (GRID, "random", "random, halving", "tpe, no pruning", DEFAULT, "gp")


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore", ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = read_curves(options.curves)
    goal, most = target(curves), REPORT_GRID_TRIALS * curves.epochs
    print(
        f"{len(curves.rates)} x {len(curves.decays)} curves of {curves.epochs} epochs; the goal is a val/loss of "
        f"{goal:.4f}; the grid takes {most} epochs\n"
    )
    print(f"| method | seeds | median | p80 | p90 |{''.join(f' by {share * most:g} |' for share in SHARES)}")
    print(f"|{' --- |' * (5 + len(SHARES))}", flush=True)
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
    if options.picture is not None:
        _draw({name: costs[name] for name in PICTURED if name in costs}, goal, most, options.picture)


def _row(name: str, costs: np.ndarray, most: int) -> str:
    """A row of the table for sorted costs."""
    quantiles = [costs[math.ceil(quantile * len(costs)) - 1] for quantile in (0.5, 0.8, 0.9)]
    cells = [name, str(len(costs)), *(f"{cost:.0f}" if cost <= most else f"> {most}" for cost in quantiles)]
    cells += [f"{(costs <= share * most).mean():.0%}" for share in SHARES]
    return f"| {' | '.join(cells)} |"


def _draw(costs: Mapping[str, np.ndarray], goal: float, most: int, file: Path) -> None:
    shares = {}
    for name, each in costs.items():
        reached = each[np.isfinite(each)]
        share = np.arange(len(reached) + 1) / len(each)
        shares[name] = np.array([0, *reached, most]), np.append(share, share[-1])
    figure = plots.fraction_reached(
        shares, [share * most for share in SHARES[:2]],
        f"Searches that are as good as the grid's best: val/loss {goal:.3f} or less",
        "training epochs spent", "share of searches",
        f"Dotted: a quarter and half of the grid's {most} epochs. Replayed on measured learning curves; a method's "
        f"searches differ in their seeds.",
    )  # fmt: skip
    figure.savefig(file)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="searches with each method")
    parser.add_argument("--methods", default="", help="only those, of all, whose names contain this")
    parser.add_argument("--all", action="store_true", help="variants of the default, too")
    parser.add_argument("--curves", type=Path, default=FILE, help="other learning curves")
    parser.add_argument("--picture", type=Path, help="file to draw the main methods into")
    return parser.parse_args()


if __name__ == "__main__":
    main()
