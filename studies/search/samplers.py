"""How the next setting is chosen, and when a training is not worth finishing."""

from collections.abc import Container, Sequence
from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from studies.config import TuneConfig

STARTUP_TRIALS = 3
"""Settings drawn at random before a sampler learns from those that are finished."""
REDUCTION_FACTOR = 3
"""Halving lets one of so many go on."""
RETRY_OF = "retry_of"
"""Attribute of a trial that resumes another one: that one's number."""
IDLE = "idle"
"""Attribute of a trial that found nothing left to do."""


def ancestors(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[int]:
    """Numbers of the trials that a trial resumes: the one before it, then the one before that, and so on.

    Args:
        trial: the trial.
        trials: all trials of the study, in order of their numbers.
    """
    found: list[int] = []
    while (retry_of := trial.user_attrs.get(RETRY_OF)) is not None:
        found.append(retry_of)
        trial = trials[retry_of]
    return found


def siblings(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Other trials of the same training that this one does not resume.

    Two workers may queue an interrupted trial at the same time, and what they queue may be interrupted in turn.
    """
    above = [trial.number, *ancestors(trial, trials)]
    others = [each for each in trials if each.number not in above and IDLE not in each.user_attrs]
    return [each for each in others if above[-1] in (each.number, *ancestors(each, trials))]


def each_once(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of a study with each training once, of all its trials in order of their numbers.

    A trial that another one resumes is left out, as is one that found nothing to do. Of several trials that resume the
    same one, the finished one is the training; else the first that runs, else the first that waits.
    """
    trainings: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if IDLE not in trial.user_attrs:
            origin = [trial.number, *ancestors(trial, trials)][-1]
            trainings.setdefault(origin, []).append(trial)

    def rank(trial: FrozenTrial) -> tuple[int, int]:
        order = (TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL)
        failed = trial.state == TrialState.FAIL
        return 1 + order.index(trial.state) if trial.state in order else 0, -trial.number if failed else trial.number

    return sorted((min(each, key=rank) for each in trainings.values()), key=lambda trial: trial.number)


class SeededByTrial(BaseSampler):
    """Another sampler, seeded anew for each trial, so that a study that was interrupted goes on as it would have."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._seed = kind, seed
        self._sampler = self._seeded(0)

    def _seeded(self, position: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, position]).generate_state(1)[0])
        if self._kind == "tpe":
            return TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
        if self._kind == "gp":
            return GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed, deterministic_objective=False)
        return RandomSampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        earlier = study.get_trials(deepcopy=False)[: trial.number]
        self._sampler = self._seeded(sum(RETRY_OF not in each.user_attrs for each in earlier))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


def chosen_pruner(config: TuneConfig, objectives: int) -> Literal["halving", "median", "none"]:
    """Which pruner `pruner` comes to.

    Raises:
        InputError: it cannot go with the sampler, or with several objectives.
    """
    if config.pruner == "auto":
        return "halving" if config.sampler in ("tpe", "random") and objectives == 1 else "none"
    if config.pruner != "none" and objectives > 1:
        raise InputError(
            f"pruner={config.pruner}: nothing can be pruned when there are several objectives; name one objective "
            f"and make the others a constraint, or leave pruner out"
        )
    if config.pruner != "none" and config.sampler == "gp":
        raise InputError(f"pruner={config.pruner}: sampler=gp learns nothing from pruned trainings; leave pruner out")
    return config.pruner


def build_pruner(config: TuneConfig, objectives: int) -> BasePruner:
    """The pruner that `pruner` comes to.

    The default lets the best third go on after a fifth of the epochs, and again after three fifths: later than Optuna's
    own default, since the curves of low learning rates start slower and cross others.

    Raises:
        InputError: it cannot go with the sampler, or with several objectives.
    """
    kind, first = chosen_pruner(config, objectives), first_rung(config.epochs)
    if kind == "none":
        return NopPruner()
    if kind == "median":
        return _Median(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first)
    return _Halving(min_resource=first, reduction_factor=REDUCTION_FACTOR)


class _Halving(SuccessiveHalvingPruner):
    """Successive halving that sees each training once."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(_EachOnceStudy(study), trial)


class _Median(MedianPruner):
    """The median pruner, which sees each training once."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(_EachOnceStudy(study), trial)


class _EachOnceStudy(Study):
    """A view of a study with each training once.

    A trial that was interrupted and the trial that resumes it both hold the same intermediate values and rungs. Counted
    twice, they would make a pruner stricter with each interruption.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        trials = each_once(super().get_trials(deepcopy))
        return [trial for trial in trials if states is None or trial.state in states]


def first_rung(epochs: int) -> int:
    """The epoch after which a training can first be pruned."""
    return max(1, epochs // 5)
