"""A study in pictures: the plane it has searched, how it got on, and what its best trainings are worth."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from optuna import Study
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from segmentation import plots
from segmentation.errors import InputError
from segmentation.metrics import BRIEF, METRICS
from studies import tracking
from studies.base import original_report as published
from studies.scores.recording import small_print
from studies.scores.stored import StoredScores, find_runs
from studies.search import plots as drawn
from studies.search import space as spaces
from studies.search.plan import EPOCHS, RUN, SETTINGS, STATES, Plan, counted, in_state
from studies.search.space import Choices, Range, typed
from studies.search.storage import studies_beside
from studies.search.worker import METRICS_KEPT

HEAT_MAPS = tuple(f"val/{name}" for name in BRIEF)
BEST_SHOWN = 5


def search_plots(study: Study, plan: Plan) -> Iterator[tuple[str, Figure]]:
    """Every picture of a search that can be drawn, by name."""
    trials = [trial for trial in counted(study) if trial.state in STATES and METRICS_KEPT in trial.user_attrs]
    if not trials:
        return
    title = f"{plan.name}: {plan.base.dataset}, {plan.base.epochs} epochs"
    goal = plan.goals[0]
    yield from _over_the_plane(trials, plan, title)
    searches = {plan.name: _history(study, plan)} | _grid_beside(study, plan)
    yield "history", drawn.search_history(searches, title, goal.metric, goal.higher_is_better)
    done = in_state(trials, TrialState.COMPLETE)
    shares = _importances(study, plan)
    if shares:
        yield "importances", drawn.importances(shares, f"What {goal.metric} depends on\n{title}")
    curves = [
        (f"trial {trial.number}", [epoch[goal.metric] for epoch in epochs if goal.metric in epoch], STATES[trial.state])
        for trial in trials
        if (epochs := tracking.logged_epochs(trial.user_attrs[RUN], goal.metric))
    ]
    yield "trials", drawn.trial_curves(curves, title, goal.metric)
    if len(plan.goals) == 2 and done:
        front = {trial.number for trial in study.best_trials}
        yield (
            "pareto",
            drawn.pareto(
                np.array([trial.values[0] for trial in done]), np.array([trial.values[1] for trial in done]),
                np.array([trial.number in front for trial in done]), [f"trial {trial.number}" for trial in done],
                plan.goals[0].metric, plan.goals[1].metric, title,
                (plan.goals[0].higher_is_better, plan.goals[1].higher_is_better),
            ),
        )  # fmt: skip
    yield from _reliability_of_the_best(study, plan, done)


def _over_the_plane(trials: Sequence[FrozenTrial], plan: Plan, title: str) -> Iterator[tuple[str, Figure]]:
    """Learning rate and weight decay, or the first two numbers that are searched, with each metric."""
    numbers = [name for name, dimension in plan.space.items() if _is_numeric(dimension)]
    if len(numbers) < 2:
        return
    x, y = ("learning_rate", "weight_decay") if {"learning_rate", "weight_decay"} <= set(numbers) else numbers[:2]
    for metric in dict.fromkeys([*HEAT_MAPS, plan.goals[0].metric]):
        short = metric.removeprefix("val/")
        higher = METRICS[short].higher_is_better if short in METRICS else plan.goals[0].higher_is_better
        figures = [trial.user_attrs[METRICS_KEPT].get(metric, math.nan) for trial in trials]
        name = metric.removeprefix("val/").replace("/", "_")
        if plan.is_grid and len(plan.space) == 2:
            xs, ys = (sorted(plan.space[axis].values) for axis in (x, y))
            ours = np.full((len(ys), len(xs)), np.nan)
            for trial, figure in zip(trials, figures, strict=True):
                values = plan.values(trial)
                ours[ys.index(values[y]), xs.index(values[x])] = figure
            panels = {"": ours} | ({} if not has_published(plan) else _published_panel(metric, xs, ys))
            if len(panels) > 1:
                panels = {"ours": panels.pop(""), **panels}
            yield name, drawn.heat_maps(
                panels, [typed(each) for each in xs], [typed(each) for each in ys], x.replace("_", " "),
                y.replace("_", " "), title, metric, higher,
            )  # fmt: skip
        else:
            first, second = (np.array([float(plan.values(trial)[axis]) for trial in trials]) for axis in (x, y))
            pruned = np.array([trial.state != TrialState.COMPLETE for trial in trials])
            yield (
                name,
                drawn.plane(
                    first,
                    second,
                    np.array(figures),
                    pruned,
                    x.replace("_", " "),
                    y.replace("_", " "),
                    title,
                    metric,
                    bool(higher),
                ),
            )


def _published_panel(metric: str, xs: Sequence[float], ys: Sequence[float]) -> dict[str, np.ndarray]:
    attribute = {"val/loss": "val_loss", "val/pixel_accuracy": "val_accuracy"}.get(metric)
    if attribute is None:
        return {}
    cells = [[published.grid_cell(x, y) for x in xs] for y in ys]
    values = [[math.nan if cell is None else float(getattr(cell, attribute)) for cell in row] for row in cells]
    return {"the report": np.array(values)}


def _is_numeric(dimension: Choices | Range) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values)


def _history(study: Study, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Epochs spent when each trial ended, and its value; NaN unless it was completed and keeps the limit."""
    ended = sorted(
        (trial for trial in counted(study) if trial.datetime_complete is not None),
        key=lambda trial: trial.datetime_complete or 0,
    )
    epochs = np.cumsum([trial.user_attrs.get(EPOCHS, 0) for trial in ended])
    values = [
        trial.values[0]
        if trial.state == TrialState.COMPLETE and all(excess <= 0 for excess in trial.constraints.values())
        else math.nan
        for trial in ended
    ]
    return epochs, np.array(values, float)


def _grid_beside(study: Study, plan: Plan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The history of a grid study that differs in nothing but how it searches, if the storage has one."""
    if plan.is_grid:
        return {}
    ours = plan.settings()
    for other in studies_beside(study):
        theirs = other.user_attrs.get(SETTINGS, {})
        same = all(theirs.get(key) == ours[key] for key in ours if key not in ("search", "sampler", "pruner"))
        if theirs.get("sampler") == "grid" and same:
            return {other.study_name: _history(other, plan)}
    return {}


def _importances(study: Study, plan: Plan) -> dict[str, float]:
    """Share of each field in what makes the first objective vary; empty where that cannot be told."""
    done = in_state(study.get_trials(deepcopy=False), TrialState.COMPLETE)
    if len(plan.space) < 2 or len(done) < 4 or len({trial.values[0] for trial in done}) < 2:
        return {}
    try:
        return get_param_importances(study, target=None if len(plan.goals) == 1 else lambda trial: trial.values[0])
    except (ValueError, RuntimeError):
        return {}


def _reliability_of_the_best(study: Study, plan: Plan, done: Sequence[FrozenTrial]) -> Iterator[tuple[str, Figure]]:
    goal = plan.goals[0]
    ranked = sorted(done, key=lambda trial: -trial.values[0] if goal.higher_is_better else trial.values[0])[:BEST_SHOWN]
    if len(plan.goals) > 1:
        ranked = study.best_trials[:BEST_SHOWN]
    bins, protocol = {}, None
    for trial in ranked:
        try:
            (run,) = find_runs(trial.user_attrs[RUN], plan.base.val_split)
            stored = StoredScores(run, plan.base.val_split)
        except InputError:
            continue
        scores = stored.scores(list(stored.digests))
        protocol = stored.protocol | {"pixels": int(scores.reliability.bins().count.sum())}
        bins[f"trial {trial.number}: {spaces.described(plan.values(trial))}"] = scores.reliability.bins()
    if protocol is not None:
        yield (
            "reliability",
            plots.reliability_lines(
                bins, f"{plan.name}: the best {len(bins)} of {len(done)}", None, small_print(protocol)
            ),
        )


def has_published(plan: Plan) -> bool:
    """Whether the original report has tried what a study tries."""
    return (
        plan.base.dataset == published.GRID_DATASET
        and plan.base.model == published.GRID_MODEL
        and plan.is_grid
        and set(plan.space) == {"learning_rate", "weight_decay"}
    )
