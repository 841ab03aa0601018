"""Samplers, which choose the values of the next trial."""

from collections.abc import Container, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from studies.search.space import ZERO_DECADE, Range, Space
from studies.search.trials import RETRY_OF

STARTUP_TRIALS = 3
"""Number of trials with random values before a sampler learns from finished ones."""


class SeededByTrial(BaseSampler):
    """Wraps a sampler and seeds it anew for each trial, so that an interrupted study draws what it would have drawn."""

    def __init__(self, kind: str, seed: int, space: Space = MappingProxyType({})) -> None:
        """Wrap a sampler.

        Args:
            kind: `tpe`, `gp` or `random`.
            seed: of the study.
            space: its search space; ranges that include 0 are sampled on a logarithmic scale.
        """
        self._kind, self._seed = kind, seed
        self._with_zero = {
            name: dimension for name, dimension in space.items() if isinstance(dimension, Range) and dimension.or_zero
        }
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
        self._sampler = self._seeded(sum(RETRY_OF not in other.user_attrs for other in earlier))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampled = {name: self._sampled(name, distribution) for name, distribution in search_space.items()}
        drawn = self._sampler.sample_relative(_SampledStudy(study, self._with_zero), trial, sampled)
        return {name: self._stored(name, value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampled = self._sampled(param_name, param_distribution)
        view = _SampledStudy(study, self._with_zero)
        drawn = self._sampler.sample_independent(view, trial, param_name, sampled)
        return self._stored(param_name, drawn, param_distribution)

    def _sampled(self, name: str, distribution: BaseDistribution) -> BaseDistribution:
        return self._with_zero[name].sampled() if _is_linear(self._with_zero, name, distribution) else distribution

    def _stored(self, name: str, value: Any, distribution: BaseDistribution) -> Any:
        below = _is_linear(self._with_zero, name, distribution) and value < self._with_zero[name].low
        return 0.0 if below else value

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


class _SampledStudy(Study):
    """View of a study in which ranges that include 0 have the distributions that are sampled."""

    def __init__(self, study: Study, with_zero: Mapping[str, Range]) -> None:
        self.__dict__.update(study.__dict__)
        self._with_zero = with_zero

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [self._sampled(trial) for trial in trials] if self._with_zero else trials

    def _sampled(self, trial: FrozenTrial) -> FrozenTrial:
        stored = trial.distributions
        names = [name for name in stored if _is_linear(self._with_zero, name, stored[name])]
        ranges = {name: self._with_zero[name] for name in names}
        middle = {name: each.low / ZERO_DECADE**0.5 for name, each in ranges.items()}  # of the part that stands for 0
        view = copy(trial)
        view.distributions = stored | {name: each.sampled() for name, each in ranges.items()}
        view.params = trial.params | {name: trial.params[name] or middle[name] for name in names}
        return view


def _is_linear(with_zero: Mapping[str, Range], name: str, distribution: BaseDistribution) -> bool:
    """Whether a distribution is the stored one of a range that includes 0; earlier versions stored the sampled one."""
    return name in with_zero and isinstance(distribution, FloatDistribution) and not distribution.log
