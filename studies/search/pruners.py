"""Pruners, which stop trials that are worse than others at the same epoch."""

from collections.abc import Container
from typing import Literal

from optuna import Study
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from studies.config import TuneConfig
from studies.search.samplers import STARTUP_TRIALS
from studies.search.trials import each_once

REDUCTION_FACTOR = 3
"""Successive halving keeps the best 1 / REDUCTION_FACTOR of the trials at each rung."""


def chosen_pruner(config: TuneConfig, objectives: int) -> Literal["halving", "median", "none"]:
    """The pruner that `pruner` names; `auto` depends on the sampler and the number of objectives.

    Raises:
        InputError: the pruner does not fit the sampler or the number of objectives.
    """
    if config.pruner == "auto":
        return "halving" if config.sampler in ("tpe", "random") and objectives == 1 else "none"
    if config.pruner != "none" and objectives > 1:
        raise InputError(
            f"pruner={config.pruner} needs a single objective: name one objective and a constraint, or leave pruner out"
        )
    if config.pruner != "none" and config.sampler == "gp":
        raise InputError(
            f"pruner={config.pruner} does not fit sampler=gp, which learns nothing from pruned trials: leave pruner out"
        )
    return config.pruner


def build_pruner(config: TuneConfig, objectives: int) -> BasePruner:
    """The Optuna pruner for `pruner`.

    Successive halving has rungs at 1/5 and 3/5 of the epochs, and keeps the best third at each. Optuna's default rungs
    are earlier. They lose low learning rates, whose curves start slowly and cross others later.

    Raises:
        InputError: the pruner does not fit the sampler or the number of objectives.
    """
    kind, first = chosen_pruner(config, objectives), first_rung(config.epochs)
    if kind == "none":
        return NopPruner()
    if kind == "median":
        return _Median(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first)
    return _Halving(min_resource=first, reduction_factor=REDUCTION_FACTOR)


def first_rung(epochs: int) -> int:
    """The first epoch after which a trial can be pruned."""
    return max(1, epochs // 5)


class _Halving(SuccessiveHalvingPruner):
    """Successive halving that counts each chain of retries once."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(_EachOnceStudy(study), trial)


class _Median(MedianPruner):
    """Median pruner that counts each chain of retries once."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(_EachOnceStudy(study), trial)


class _EachOnceStudy(Study):
    """View of a study with one trial for each chain of retries.

    An interrupted trial and the trial that resumes it hold the same intermediate values and rungs. If both counted, a
    pruner would become stricter with each interruption.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        trials = each_once(super().get_trials(deepcopy))
        return [trial for trial in trials if states is None or trial.state in states]
