"""Samplers, which choose the values of the next trial."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from studies.search.trials import RETRY_OF

STARTUP_TRIALS = 3
"""Number of trials with random values before a sampler learns from finished ones."""


class SeededByTrial(BaseSampler):
    """Wraps a sampler and seeds it anew for each trial, so that an interrupted study draws what it would have drawn."""

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
        self._sampler = self._seeded(sum(RETRY_OF not in other.user_attrs for other in earlier))
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
