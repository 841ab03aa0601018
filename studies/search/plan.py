"""What a study is to do, and how much of it is done."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from segmentation.metrics import METRICS
from studies.config import TemplateConfig, TrainConfig, TuneConfig, decisive, settled
from studies.search import space as spaces
from studies.search.goals import Goal, Limit, goals, limit
from studies.search.samplers import IDLE as IDLE
from studies.search.samplers import chosen_pruner, each_once
from studies.search.space import Choices, Space

SETTINGS = "settings"
"""Attribute of a study: all that may not change while it goes on."""
VALUES = "values"
"""Attribute of a trial: the values of the fields that are searched."""
EPOCHS = "epochs"
"""Attribute of a trial: epochs that it has been trained for."""
RUN = "mlflow_run_id"
"""Attribute of a trial: its MLflow run."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""How trials that have ended are called."""
REPORT_S_GRID = 16
"""Trainings of the original report's grid."""


@dataclass(frozen=True)
class Plan:
    """One study: what it varies, what it is after, and when it is over."""

    name: str
    base: TrainConfig
    """What every training shares."""
    space: Space
    goals: tuple[Goal, ...]
    limit: Limit | None
    sampler: str
    pruner: str
    n_trials: int | None
    max_epochs: int | None
    """Training epochs of all trials together."""

    @property
    def is_grid(self) -> bool:
        """Whether all combinations are tried, and nothing else."""
        return self.sampler == "grid"

    def settings(self) -> dict[str, Any]:
        """All that may not change while the study goes on, as JSON knows it."""
        shared = {name: value for name, value in decisive(asdict(settled(self.base))).items() if name not in self.space}
        return shared | {
            "search": ",".join(f"{name}={dimension}" for name, dimension in self.space.items()),
            "goals": [goal.metric for goal in self.goals], "constraint": str(self.limit) if self.limit else None,
            "sampler": self.sampler, "pruner": self.pruner,
        }  # fmt: skip

    def in_words(self) -> str:
        """What is varied, after what, by which sampler and with how much of it."""
        over = ", ".join(
            f"{name} {' | '.join(str(value) for value in dimension.values)}" if isinstance(dimension, Choices)
            else f"{name} {'0 | ' if dimension.or_zero else ''}{dimension.low:g} to {dimension.high:g}"
            for name, dimension in self.space.items()
        )  # fmt: skip
        after = " and ".join(f"{'highest' if goal.higher_is_better else 'lowest'} {goal.metric}" for goal in self.goals)
        if self.limit:
            after += f" with {self.limit}"
        bounds = []
        if self.n_trials is not None:
            bounds.append(f"{self.n_trials} training(s)")
        if self.max_epochs is not None:
            bounds.append(f"{self.max_epochs} training epochs")
        until = f", until {' or '.join(bounds)}" if bounds else ""
        prune = {
            "none": "nothing is pruned",
            "halving": "all but the best third are pruned",
            "median": "pruned below the median",
        }
        return f"{after} over {over}; sampler {self.sampler}, {prune[self.pruner]}{until}."

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """What a trial varies."""
        return spaces.values_of(trial.params, self.space)

    def epochs_left(self, study: Study, number: int | None = None) -> float:
        """Training epochs of the budget that are neither used up nor needed; infinite without a budget.

        What a trial that runs, or waits, needs to be completed is not left for others. So several workers that share
        the end of a budget complete some trials, instead of beginning more than any can complete.

        Args:
            study: whose trials they are.
            number: a trial that is under way, as which to look: its own needs are left, and so are those of later
                trials under way, which must yield to it. By default all trials are others.
        """
        if self.max_epochs is None:
            return math.inf
        taken = 0
        for trial in counted(study):
            under_way = trial.state in (TrialState.RUNNING, TrialState.WAITING)
            if not under_way or trial.number == number:
                taken += trial.user_attrs.get(EPOCHS, 0)
            elif number is None or trial.number < number:
                taken += self.base.epochs
        return self.max_epochs - taken

    def may_start(self, study: Study) -> bool:
        """Whether a training that is new, or waits to go on, may begin."""
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return True
        if self.is_grid:
            return False
        if self.epochs_left(study) < self.base.epochs:
            return False
        return self.n_trials is None or len(counted(study)) < self.n_trials

    def most_epochs(self, study: Study) -> int:
        """Training epochs that the whole study takes at most."""
        if self.max_epochs is not None:
            return self.max_epochs
        trials = len(counted(study)) if self.n_trials is None else self.n_trials
        return trials * self.base.epochs


def plan(config: TuneConfig) -> Plan:
    """Read a study's plan from its configuration.

    Raises:
        InputError: what cannot be done.
    """
    wanted = goals(config)
    pruner = chosen_pruner(config, len(wanted))
    base = TemplateConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})
    if base.monitor == TrainConfig.monitor and wanted[0].metric.removeprefix("val/") in METRICS:
        base = replace(base, monitor=wanted[0].metric)
    budget = config.max_epochs_total
    if config.sampler == "grid" and (budget is not None or config.n_trials is not None):
        raise InputError("sampler=grid tries every combination: n_trials and max_epochs_total go with other samplers")
    if budget is None and config.n_trials is None and config.timeout is None:
        budget = REPORT_S_GRID * config.epochs // 2
    if budget is not None and budget < config.epochs:
        raise InputError(f"max_epochs_total={budget} is not even one training of epochs={config.epochs}")
    return Plan(
        name=config.study_name or f"{config.model}-{config.dataset}-{config.sampler}",
        base=base,
        space=spaces.parse(config.search, base, config.sampler == "grid"),
        goals=wanted,
        limit=limit(config),
        sampler=config.sampler,
        pruner=pruner,
        n_trials=config.n_trials,
        max_epochs=None if config.sampler == "grid" else budget,
    )


def counted(study: Study) -> list[FrozenTrial]:
    """The trials of a study, each training once."""
    return each_once(study.get_trials(deepcopy=False))


def point(trial: FrozenTrial) -> dict[str, Any]:
    """The values that a trial has, or is to have; empty if none are prescribed and none have been drawn yet."""
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))


def spent(study: Study) -> int:
    """Training epochs of all trials together."""
    return sum(trial.user_attrs.get(EPOCHS, 0) for trial in counted(study))


def in_state(trials: Sequence[FrozenTrial], *states: TrialState) -> list[FrozenTrial]:
    """Those trials that are in one of the states."""
    return [trial for trial in trials if trial.state in states]


def best_trial(study: Study, wanted: Plan) -> FrozenTrial | None:
    """The best completed trial, of those that keep the limit if any does; with several goals, by the first."""
    done = in_state(counted(study), TrialState.COMPLETE)
    goal = wanted.goals[0]

    def badness(trial: FrozenTrial) -> tuple[float, float]:
        assert trial.values
        excess = max([0.0, *trial.constraints.values()])
        return excess, -trial.values[0] if goal.higher_is_better else trial.values[0]

    return min(done, key=badness, default=None)
