"""Numbers of a study's plots, read from its trials and their MLflow runs. `studies.search.plots` draws them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from optuna import Study
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from segmentation.metrics import BRIEF, METRICS
from segmentation.plots import reliability_lines
from studies import tracking
from studies.base import original_report
from studies.scores.stored import StoredScores, find_runs
from studies.scores.wording import protocol_line
from studies.search import plots
from studies.search.constant_model import ConstantModel, constant_model
from studies.search.objectives import DIRECTIONS
from studies.search.plan import Plan, stored_settings
from studies.search.space import Choices, Range, describe_values, format_value
from studies.search.storage import studies_beside
from studies.search.summary import best_by
from studies.search.trials import (
    EPOCHS,
    RUN,
    STATES,
    VAL_IMAGES,
    best_trial,
    counted_trials,
    in_state,
    kept_metrics,
    pareto_front,
    ranked_trials,
)

HEAT_MAPS = tuple(f"val/{name}" for name in BRIEF)
BEST_SHOWN = 5


def study_plots(study: Study, plan: Plan) -> Iterator[tuple[str, Figure]]:
    """All plots for which a study has data, each with its name."""
    trials = [trial for trial in counted_trials(study) if trial.state in STATES and kept_metrics(trial)]
    if not trials:
        return
    title = f"{plan.name}: {plan.base.dataset}, {plan.base.epochs} epochs"
    best, constant = best_trial(study), constant_model(study)
    objective = plan.objectives[0]
    yield from _plots_over_two_fields(trials, plan, title, best, constant, repeats_original_grid(study, plan))
    searches = {plan.name: _history(study, plan)} | _history_of_grid(study, plan)
    yield (
        "history",
        plots.search_history(
            searches,
            title,
            objective.metric,
            objective.higher_is_better,
            reference=_reference(constant, objective.metric),
        ),
    )
    done = in_state(trials, TrialState.COMPLETE)
    importances = _importances(study, plan)
    if importances:
        yield (
            "importances",
            plots.importances(importances, f"Importance for {objective.metric}\n{title}"),
        )
    curves = [
        (
            f"trial {trial.number}",
            [epoch[objective.metric] for epoch in epochs if objective.metric in epoch],
            STATES[trial.state],
        )
        for trial in trials
        if (epochs := tracking.logged_epochs(trial.user_attrs[RUN], objective.metric))
    ]
    yield "trials", plots.trial_curves(curves, title, objective.metric, _reference(constant, objective.metric))
    if len(plan.objectives) == 2 and done:
        front = {trial.number for trial in pareto_front(study)}
        yield (
            "pareto",
            plots.pareto_front(
                np.array([trial.values[0] for trial in done]), np.array([trial.values[1] for trial in done]),
                np.array([trial.number in front for trial in done]), [f"trial {trial.number}" for trial in done],
                plan.objectives[0].metric, plan.objectives[1].metric, title,
                (plan.objectives[0].higher_is_better, plan.objectives[1].higher_is_better),
                next((index for index, trial in enumerate(done) if best and trial.number == best.number), None),
                "" if best is None else f"trial {best.number}, best by {best_by(plan)}",
            ),
        )  # fmt: skip
    yield from _reliability_of_best(study, plan, done)


def repeats_original_grid(study: Study, plan: Plan) -> bool:
    """Whether a study is the grid of the original report: of its model, scored on all of its images at its size."""
    base = plan.base
    return (
        base.model == original_report.GRID_MODEL
        and plan.is_grid
        and set(plan.space) == {"learning_rate", "weight_decay"}
        and original_report.scored_the_same({
            "dataset": base.dataset, "split": base.val_split, "resize": base.resize,
            "crop": None if base.score_crop == "whole" else base.crop, "images": study.user_attrs.get(VAL_IMAGES),
        })
    )  # fmt: skip


def _plots_over_two_fields(
    trials: Sequence[FrozenTrial],
    plan: Plan,
    title: str,
    best: FrozenTrial | None,
    constant: ConstantModel | None,
    is_original: bool,
) -> Iterator[tuple[str, Figure]]:
    """One plot per metric over learning rate and weight decay, or over the first two numeric fields."""
    numeric = [name for name, dimension in plan.space.items() if _is_numeric(dimension)]
    if len(numeric) < 2:
        return
    x, y = ("learning_rate", "weight_decay") if {"learning_rate", "weight_decay"} <= set(numeric) else numeric[:2]
    xlabel, ylabel = x.replace("_", " "), y.replace("_", " ")
    for metric in dict.fromkeys([*HEAT_MAPS, *(objective.metric for objective in plan.objectives)]):
        marked = "" if best is None else f"{metric} of trial {best.number}, best by {best_by(plan)}"
        short = metric.removeprefix("val/")
        higher = METRICS[short].higher_is_better if short in METRICS else DIRECTIONS.get(metric, True)
        reference = _reference(constant, metric)
        note = None if reference is None else f"{reference[0]}: {metric} {reference[1]:.3f}"
        results = [kept_metrics(trial).get(metric, math.nan) for trial in trials]
        name = short.replace("/", "_")
        if plan.is_grid and len(plan.space) == 2:
            xs, ys = (sorted(plan.space[field].values) for field in (x, y))
            cells = np.full((len(ys), len(xs)), np.nan)
            at = {trial.number: (ys.index(plan.values(trial)[y]), xs.index(plan.values(trial)[x])) for trial in trials}
            for trial, result in zip(trials, results, strict=True):
                cells[at[trial.number]] = result
            original = _original_panel(metric, xs, ys) if is_original else {}
            panels = {"ours": cells, **original} if original else {"": cells}
            yield name, plots.heat_maps(
                panels, [format_value(value) for value in xs], [format_value(value) for value in ys], xlabel, ylabel,
                title, metric, higher, None if best is None else at[best.number], marked, note,
            )  # fmt: skip
        else:
            first, second = (np.array([float(plan.values(trial)[field]) for trial in trials]) for field in (x, y))
            pruned = np.array([trial.state != TrialState.COMPLETE for trial in trials])
            star = next((index for index, trial in enumerate(trials) if best and trial.number == best.number), None)
            yield (
                name,
                plots.scatter(
                    first,
                    second,
                    np.array(results),
                    pruned,
                    xlabel,
                    ylabel,
                    title,
                    metric,
                    bool(higher),
                    star,
                    marked,
                    note,
                ),
            )


def _reference(constant: ConstantModel | None, metric: str) -> tuple[str, float] | None:
    """Name and value of the constant model's metric; None if it has none."""
    if constant is None or metric not in constant.metrics:
        return None
    return f"predicting {constant.most_frequent} everywhere", constant.metrics[metric]


def _original_panel(metric: str, xs: Sequence[float], ys: Sequence[float]) -> dict[str, np.ndarray]:
    attribute = {"val/loss": "val_loss", "val/pixel_accuracy": "val_accuracy"}.get(metric)
    if attribute is None:
        return {}
    cells = [[original_report.grid_cell(x, y) for x in xs] for y in ys]
    values = [[math.nan if cell is None else float(getattr(cell, attribute)) for cell in row] for row in cells]
    return {"original report": np.array(values)}


def _is_numeric(dimension: Choices | Range) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values)


def _history(study: Study, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Epochs used when each trial ended, and its value; NaN unless it is complete and meets the constraint."""
    ended = sorted(
        (trial for trial in counted_trials(study) if trial.datetime_complete is not None),
        key=lambda trial: trial.datetime_complete or 0,
    )
    epochs = np.cumsum([trial.user_attrs.get(EPOCHS, 0) for trial in ended])
    values = [
        trial.values[0]
        if trial.state == TrialState.COMPLETE and all(violation <= 0 for violation in trial.constraints.values())
        else math.nan
        for trial in ended
    ]
    return epochs, np.array(values, float)


def _history_of_grid(study: Study, plan: Plan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The history of a grid study with the same settings, if the storage has one."""
    if plan.is_grid:
        return {}
    ours = plan.settings()
    for other in studies_beside(study):
        theirs = stored_settings(other)
        same = all(theirs.get(key) == ours[key] for key in ours if key not in ("search", "sampler", "pruner"))
        if theirs.get("sampler") == "grid" and same:
            return {other.study_name: _history(other, plan)}
    return {}


def _importances(study: Study, plan: Plan) -> dict[str, float]:
    """Importance of each field for the first objective, as a fraction; empty if it cannot be computed."""
    done = in_state(study.get_trials(deepcopy=False), TrialState.COMPLETE)
    if len(plan.space) < 2 or len(done) < 4 or len({trial.values[0] for trial in done}) < 2:
        return {}
    try:
        return get_param_importances(study, target=None if len(plan.objectives) == 1 else lambda trial: trial.values[0])
    except (ValueError, RuntimeError):
        return {}


def _reliability_of_best(study: Study, plan: Plan, done: Sequence[FrozenTrial]) -> Iterator[tuple[str, Figure]]:
    ranked = ranked_trials(study)[:BEST_SHOWN]
    if len(plan.objectives) > 1:
        ranked = pareto_front(study)[:BEST_SHOWN]
    bins, protocol = {}, None
    for trial in ranked:
        try:
            (run,) = find_runs(trial.user_attrs[RUN], plan.base.val_split)
            stored = StoredScores(run, plan.base.val_split)
        except InputError:
            continue
        scores = stored.scores(list(stored.digests))
        protocol = stored.protocol | {"pixels": int(scores.reliability.bins().count.sum())}
        bins[f"trial {trial.number}: {describe_values(plan.values(trial))}"] = scores.reliability.bins()
    if protocol is not None:
        title = f"{plan.name}: the best {len(bins)} of {len(done)} complete trials"
        yield "reliability", reliability_lines(bins, title, None, protocol_line(protocol))
