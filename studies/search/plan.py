"""The plan of a study: search space, objectives, constraint, sampler, pruner and budget, read from `TuneConfig`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from segmentation.errors import InputError
from segmentation.metrics import METRICS
from studies.config import TemplateConfig, TrainConfig, TuneConfig, decisive, folds_trained, settled
from studies.runs.variants import each_fold
from studies.search.objectives import Constraint, Objective, read_constraint, read_objectives
from studies.search.pruners import chosen_pruner
from studies.search.space import Choices, Space, parse_space, values_of, with_values

SETTINGS = "settings"
"""System attribute of a study, which dashboards do not show: the settings that must not change between calls."""
REPORT_GRID_TRIALS = 16
"""Number of trials in the original report's grid."""


@dataclass(frozen=True)
class Plan:
    """What one study searches, optimises and spends."""

    name: str
    base: TrainConfig
    """Configuration that all trials share."""
    space: Space
    objectives: tuple[Objective, ...]
    constraint: Constraint | None
    sampler: str
    pruner: str
    n_trials: int | None
    max_epochs: int | None
    """Number of epochs of all trials together; None is no limit."""
    all_outputs: bool = False
    """Whether every trial draws its plots and logs its model; otherwise only the best one does, at the end."""

    @property
    def is_grid(self) -> bool:
        """Whether the study tries all combinations of listed values."""
        return self.sampler == "grid"

    @property
    def is_open_ended(self) -> bool:
        """Whether only the time of each call is limited, so that the study is never complete."""
        return not self.is_grid and self.n_trials is None and self.max_epochs is None

    @property
    def finishes_best(self) -> bool:
        """Whether plots or model of the best trial are made at the end."""
        if self.all_outputs:
            return self.base.register_as is not None
        return self.base.log_model or self.base.plot_every > 0

    def trial_config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Configuration of a trial with these values. Only the best trial is registered, at the end."""
        config = replace(with_values(self.base, values), register_as=None)
        return config if self.all_outputs else replace(config, plot_every=0, log_model=False)

    def best_config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Configuration with which plots and model of the best trial are made; that of its first fold."""
        return next(each_fold(with_values(self.base, values)))

    @property
    def trial_epochs(self) -> int:
        """Number of epochs of a complete trial, in all folds together."""
        return self.base.epochs * folds_trained(self.base)

    def settings(self) -> dict[str, Any]:
        """Settings that must not change between calls, as JSON values."""
        shared = {name: value for name, value in decisive(asdict(settled(self.base))).items() if name not in self.space}
        models = self.space["model"].values if "model" in self.space else (self.base.model,)
        if any(":" in model for model in models):
            from segmentation.models.model_code import is_own, local_code  # imports torch, which `status` does not need

            shared["model_code"] = {model: local_code(model).checksum[:12] for model in models if is_own(model)}
        return shared | {
            "search": ",".join(f"{name}={dimension}" for name, dimension in self.space.items()),
            "goals": [objective.metric for objective in self.objectives],
            "constraint": str(self.constraint) if self.constraint else None,
            "sampler": self.sampler, "pruner": self.pruner,
        }  # fmt: skip

    def description(self) -> str:
        """One line with objectives, search space, sampler, pruner and budget."""
        over = ", ".join(
            f"{name} {' | '.join(str(value) for value in dimension.values)}" if isinstance(dimension, Choices)
            else f"{name} {'0 | ' if dimension.or_zero else ''}{dimension.low:g} to {dimension.high:g}"
            for name, dimension in self.space.items()
        )  # fmt: skip
        wanted = " and ".join(
            f"{'highest' if objective.higher_is_better else 'lowest'} {objective.metric}"
            for objective in self.objectives
        )
        if folds_trained(self.base) > 1:
            wanted += f" (mean over {self.base.folds} folds)"
        if self.constraint:
            wanted += f" with {self.constraint}"
        bounds = []
        if self.n_trials is not None:
            bounds.append(f"{self.n_trials} trial(s)")
        if self.max_epochs is not None:
            bounds.append(f"{self.max_epochs} epochs")
        budget = f", at most {' or '.join(bounds)}" if bounds else ""
        return f"{wanted} over {over}; sampler {self.sampler}, pruner {self.pruner}{budget}."

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """Values of the searched fields in a trial."""
        return values_of(trial.params, self.space)


def make_plan(config: TuneConfig) -> Plan:
    """Read the plan of a study from its configuration.

    Raises:
        InputError: a field is not valid, or fields do not fit together.
    """
    objectives = read_objectives(config)
    pruner = chosen_pruner(config, len(objectives))
    base = TemplateConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})
    given = base.monitor != TrainConfig.monitor if config.typed is None else "monitor" in config.typed
    if not given and objectives[0].metric.removeprefix("val/") in METRICS:
        base = replace(base, monitor=objectives[0].metric)
    budget, trial_epochs = config.max_epochs_total, config.epochs * folds_trained(config)
    if config.sampler == "grid" and (budget is not None or config.n_trials is not None):
        raise InputError(
            "sampler=grid tries every combination: leave out n_trials and max_epochs_total, or name another sampler"
        )
    if budget is None and config.n_trials is None and config.timeout is None:
        budget = REPORT_GRID_TRIALS * trial_epochs // 2
    if budget is not None and budget < trial_epochs:
        needed = f"epochs={config.epochs}{'' if trial_epochs == config.epochs else f', folds={config.folds}'}"
        raise InputError(
            f"max_epochs_total={budget} is less than one trial needs ({needed}): raise max_epochs_total or lower epochs"
        )
    return Plan(
        name=config.study_name or f"{config.model}-{config.dataset}-{config.sampler}",
        base=base,
        space=parse_space(config.search, base, config.sampler == "grid"),
        objectives=objectives,
        constraint=read_constraint(config),
        sampler=config.sampler,
        pruner=pruner,
        n_trials=config.n_trials,
        max_epochs=None if config.sampler == "grid" else budget,
        all_outputs=config.trial_outputs == "all",
    )


def store_settings(study: Study, settings: Mapping[str, Any]) -> None:
    """Store the settings of a study."""
    study._storage.set_study_system_attr(study._study_id, SETTINGS, dict(settings))


def stored_settings(study: Study) -> dict[str, Any]:
    """The settings that a study was started with; empty if it has none. Earlier versions stored a user attribute."""
    found = study._storage.get_study_system_attrs(study._study_id).get(SETTINGS)
    return dict(found if found is not None else study.user_attrs.get(SETTINGS, {}))


def is_of_another_program(study: Study) -> bool:
    """Return whether a study has trials but no settings, which `tune` stores before the first trial."""
    return not stored_settings(study) and bool(study.get_trials(deepcopy=False))
