"""What predicting the most frequent class everywhere reaches on a study's validation split, beside its trials."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna import Study
from optuna.trial import TrialState

from segmentation.data import Split
from segmentation.metrics import METRICS
from segmentation.scoring.baseline import baseline
from studies.search.objectives import Objective
from studies.search.trials import counted_trials, in_state, kept_metrics

BASELINE = "baseline"
"""System attribute of a study: the most frequent class of the validation split, and the metrics of predicting it. The
attribute of that name, which dashboards show, is a sentence."""
ROUNDING = 1e-9
"""A metric must exceed that of the constant model by this much to beat it, since both are sums of rounded numbers."""


class ConstantModel(NamedTuple):
    """Metrics of predicting the class frequencies of the validation split for every pixel."""

    most_frequent: str
    """Name of the class that is predicted everywhere."""
    metrics: dict[str, float]
    """`val/loss`, `val/pixel_accuracy` and `val/mean_iou`."""

    def __str__(self) -> str:
        shown = ", ".join(
            f"{METRICS[name.removeprefix('val/')].label} {value:.4f}" for name, value in self.metrics.items()
        )
        return f"Predicting {self.most_frequent} everywhere: {shown}"

    def is_beaten(self, metrics: Mapping[str, float], objective: Objective) -> bool:
        """Whether a trial is better in the objective, or in mean IoU if this model has no value of the objective."""
        name, higher = "val/mean_iou", True
        if objective.metric in self.metrics:
            name, higher = objective
        value = metrics.get(name)
        gain = 0.0 if value is None else (value - self.metrics[name]) * (1 if higher else -1)
        return gain > ROUNDING


def store_constant_model(study: Study, split: Split) -> ConstantModel | None:
    """Compute the constant model of a validation split and store it with the study; None without a labelled pixel."""
    labelled = split.pixels_by_value()[: len(split.labels)]
    if not any(labelled):
        return None
    found = baseline(labelled)
    metrics = found._asdict()
    name = split.labels.names[metrics.pop("most_frequent")]
    model = ConstantModel(name, {f"val/{metric}": value for metric, value in metrics.items()})
    if constant_model(study) != model:
        stored: dict[str, Any] = {"class": model.most_frequent, **model.metrics}
        study._storage.set_study_system_attr(study._study_id, BASELINE, stored)
        study.set_user_attr(BASELINE, str(model))
    return model


def constant_model(study: Study) -> ConstantModel | None:
    """The constant model that was stored with a study; None for a study of an earlier version."""
    stored = dict(study._storage.get_study_system_attrs(study._study_id).get(BASELINE, {}))
    return ConstantModel(stored.pop("class"), stored) if stored else None


def baseline_lines(study: Study, objective: Objective) -> list[str]:
    """The metrics of the constant model, and that no complete trial beats it if so; empty if it is unknown."""
    model, warning = constant_model(study), unbeaten_warning(study, objective)
    return [] if model is None else [f"{model}.", *([f"Warning: {warning}"] if warning else [])]


def unbeaten_warning(study: Study, objective: Objective) -> str:
    """The warning that no complete trial beats the constant model; empty if one does, or if it is unknown."""
    model, done = constant_model(study), in_state(counted_trials(study), TrialState.COMPLETE)
    if model is None or not done or any(model.is_beaten(kept_metrics(trial), objective) for trial in done):
        return ""
    metric = objective.metric if objective.metric in model.metrics else "val/mean_iou"
    return (
        f"no trial beats predicting {model.most_frequent} everywhere in {metric}. Train for more epochs, widen search, "
        f"or check the masks."
    )
