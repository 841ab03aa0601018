"""A study as its MLflow run shows it: table of trials, pictures of the search, and what to do next."""

import csv
import io
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from optuna import Study
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from segmentation import plots
from segmentation.config import TrainConfig
from segmentation.errors import InputError
from segmentation.metrics import METRICS
from studies import published, tracking
from studies.search import space as spaces
from studies.search.goals import Goal
from studies.search.live import progress_in_words
from studies.search.plan import EPOCHS, SETTINGS, Plan, best_trial, counted, in_state, spent
from studies.search.space import Choices, Range
from studies.search.storage import REASON, studies_beside
from studies.search.worker import METRICS_KEPT, RUN
from studies.split_report import small_print
from studies.stored_scores import StoredScores, find_runs

COLUMNS = ("train/loss", "val/loss", "val/pixel_accuracy", "val/mean_iou", "val/ece")
"""Figures of a trial in the table: the original report's, mean IoU, and the ECE with its interval."""
HEAT_MAPS = ("val/loss", "val/pixel_accuracy", "val/ece")
BEST_SHOWN = 5
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def log_progress(study: Study, plan: Plan, parent: str) -> None:
    """Write the table of trials and the description of the study's run, which may be another process's."""
    markdown = "\n".join(_markdown(study, plan, None))
    tracking.log_text(markdown, "study/trials.md", parent)
    tracking.log_note(markdown, parent)


def log_study(study: Study, plan: Plan, confirmed: Study | None) -> None:
    """Write everything about a study into the run that is open."""
    markdown = "\n".join(_markdown(study, plan, confirmed))
    tracking.log_text(markdown, "study/trials.md")
    tracking.log_note(markdown)
    tracking.log_text(_csv(study, plan), "study/trials.csv")
    for name, figure in _figures(study, plan):
        tracking.log_figure(figure, f"study/{name}.png")
    best = best_trial(study, plan)
    if best is not None:
        shown = {f"best/{goal.metric}": value for goal, value in zip(plan.goals, best.values, strict=True)}
        tracking.log_metrics(shown | {"study/trials": len(counted(study)), "study/epochs": spent(study)})
        if confirmed is not None:
            shown = {}
            for goal, values in _confirmed(confirmed, plan):
                shown |= {f"confirmed/{goal.metric}": values.mean()}
                shown |= {f"confirmed/{goal.metric}_deviation": values.std(ddof=1)} if len(values) > 1 else {}
            tracking.log_metrics(shown)
        tracking.log_tags({"best_trial": str(best.number), "best_run": str(best.user_attrs[RUN])})


def best_in_words(study: Study, plan: Plan) -> Iterator[str]:
    """The best setting with its figures, or all that nothing beats when there are several objectives."""
    best = best_trial(study, plan)
    if best is None:
        yield "No training was completed."
        return
    front = [best] if len(plan.goals) == 1 else sorted(study.best_trials, key=lambda trial: trial.values)
    if len(front) > 1:
        yield (
            f"{len(front)} settings that no other beats in both:"
            if len(plan.goals) == 2
            else "Settings that none beats:"
        )
    for trial in front or [best]:
        figures = trial.user_attrs[METRICS_KEPT]
        shown = dict.fromkeys([goal.metric for goal in plan.goals] + ["val/pixel_accuracy", "val/mean_iou", "val/ece"])
        values = ", ".join(f"{metric} {_figure(figures, metric)}" for metric in shown)
        head = f"{'Best: ' if len(front) <= 1 else '  '}trial {trial.number}, {spaces.described(plan.values(trial))}"
        yield f"{head}: {values} (epoch {figures['epoch']})."
    broken = [limit for limit, excess in best.constraints.items() if excess > 0]
    if broken:
        yield f"No training keeps {broken[0]}: this one comes nearest."


def confirmation_in_words(confirmed: Study, plan: Plan) -> str:
    """Mean and spread of the objectives over further seeds."""
    parts, seeds = [], 0
    for goal, values in _confirmed(confirmed, plan):
        seeds = len(values)
        spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
        parts.append(f"{goal.metric} {values.mean():.4f}{spread} ({', '.join(f'{value:.4f}' for value in values)})")
    if not parts:
        return "No further seed was completed."
    return f"With {seeds} further seed(s), mean ± standard deviation: {'; '.join(parts)}."


def _confirmed(confirmed: Study, plan: Plan) -> Iterator[tuple[Goal, np.ndarray]]:
    """Each objective with its values over the further seeds."""
    done = in_state(counted(confirmed), TrialState.COMPLETE)
    for place, goal in enumerate(plan.goals if done else ()):
        yield goal, np.array([trial.values[place] for trial in done])


def train_command(plan: Plan, trial: FrozenTrial) -> str:
    """What trains a trial's setting again."""
    config = spaces.varied(plan.base, plan.values(trial))
    given = " ".join(
        f"-P {field.name}={shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"
        for field in fields(TrainConfig)
        if (value := getattr(config, field.name)) != field.default and field.name not in ("run_name", "experiment")
    )
    return f"mlflow run . -e train {given}"


def _figure(figures: Mapping[str, float], metric: str) -> str:
    if metric not in figures:
        return "–"
    interval = ""
    if metric == "val/ece" and "val/ece_low" in figures:
        interval = f" [{figures['val/ece_low']:.4f}, {figures['val/ece_high']:.4f}]"
    return f"{figures[metric]:.4f}{interval}"


def _columns(plan: Plan) -> list[str]:
    wanted = [goal.metric for goal in plan.goals] + ([plan.limit.metric] if plan.limit else [])
    return list(dict.fromkeys([*COLUMNS, *wanted]))


def _has_published(plan: Plan) -> bool:
    return (
        plan.base.dataset == published.GRID_DATASET
        and plan.base.model == published.GRID_MODEL
        and plan.is_grid
        and set(plan.space) == {"learning_rate", "weight_decay"}
    )


def _markdown(study: Study, plan: Plan, confirmed: Study | None) -> Iterator[str]:
    yield from (f"**{plan.name}** — {progress_in_words(study, plan)}", "")
    for line in best_in_words(study, plan):
        yield f"- {line}" if line.startswith("  ") else line
    if confirmed is not None:
        yield from ("", confirmation_in_words(confirmed, plan))
    best = best_trial(study, plan)
    if best is not None:
        yield from ("", f"`{train_command(plan, best)}`")
    theirs = ("the report's val/loss", "the report's val/pixel_accuracy") if _has_published(plan) else ()
    fields_of = sorted(plan.space, key=lambda name: name != "weight_decay")
    columns = _columns(plan)
    header = ["trial", *fields_of, *columns, *theirs, "epoch", "state"]
    yield from ("", f"| {' | '.join(header)} |", "|" + " --- |" * len(header))
    for trial in counted(study):
        if trial.state not in STATES and trial.state != TrialState.RUNNING:
            continue
        values, figures = plan.values(trial), trial.user_attrs.get(METRICS_KEPT, {})
        cells = [str(trial.number), *(_typed(values.get(name, "")) for name in fields_of)]
        cells += [_figure(figures, metric) for metric in columns]
        if theirs:
            cell = published.grid_cell(values.get("learning_rate", -1.0), values.get("weight_decay", -1.0))
            cells += ["–", "–"] if cell is None else [f"{cell.val_loss:.3f}", f"{cell.val_accuracy:.3f}"]
        cells += [str(figures.get("epoch", "–")), STATES.get(trial.state, "running")]
        yield f"| {' | '.join(cells)} |"
    yield from (
        "",
        f"Figures are those of the epoch kept (keep={plan.base.keep}, {plan.base.monitor}), of pruned trainings those "
        f"of their last epoch; in brackets, 95 % intervals over the validation images.",
    )


def _csv(study: Study, plan: Plan) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [f"val/{name}" for name in METRICS]
    columns = ["train/loss", "train/pixel_accuracy", *metrics, "val/ece_low", "val/ece_high"]
    columns += [column for column in _columns(plan) if column not in columns]
    writer.writerow(["trial", "state", "reason", *plan.space, "epoch", "epochs", *columns, "run_id"])
    for trial in counted(study):
        values, figures = plan.values(trial), trial.user_attrs.get(METRICS_KEPT, {})
        writer.writerow([
            trial.number, trial.state.name.lower(), trial.user_attrs.get(REASON, ""),
            *(values.get(name, "") for name in plan.space), figures.get("epoch", ""),
            trial.user_attrs.get(EPOCHS, 0), *(figures.get(column, "") for column in columns),
            trial.user_attrs.get(RUN, ""),
        ])  # fmt: skip
    return text.getvalue()


def _typed(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figures(study: Study, plan: Plan) -> Iterator[tuple[str, Figure]]:
    trials = [trial for trial in counted(study) if trial.state in STATES and METRICS_KEPT in trial.user_attrs]
    if not trials:
        return
    title = f"{plan.name}: {plan.base.dataset}, {plan.base.epochs} epochs"
    goal = plan.goals[0]
    yield from _over_the_plane(trials, plan, title)
    searches = {plan.name: _history(study, plan)} | _grid_beside(study, plan)
    yield "history", plots.search_history(searches, title, goal.metric, goal.higher_is_better)
    done = in_state(trials, TrialState.COMPLETE)
    shares = _importances(study, plan)
    if shares:
        yield "importances", plots.importances(shares, f"What {goal.metric} depends on\n{title}")
    curves = [
        (f"trial {trial.number}", [epoch[goal.metric] for epoch in epochs if goal.metric in epoch], STATES[trial.state])
        for trial in trials
        if (epochs := tracking.logged_epochs(trial.user_attrs[RUN], goal.metric))
    ]
    yield "trials", plots.trial_curves(curves, title, goal.metric)
    if len(plan.goals) == 2 and done:
        front = {trial.number for trial in study.best_trials}
        yield (
            "pareto",
            plots.pareto(
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
            panels = {"": ours} | ({} if not _has_published(plan) else _published_panel(metric, xs, ys))
            if len(panels) > 1:
                panels = {"ours": panels.pop(""), **panels}
            yield name, plots.heat_maps(
                panels, [_typed(each) for each in xs], [_typed(each) for each in ys], x.replace("_", " "),
                y.replace("_", " "), title, metric, higher,
            )  # fmt: skip
        else:
            first, second = (np.array([float(plan.values(trial)[axis]) for trial in trials]) for axis in (x, y))
            pruned = np.array([trial.state != TrialState.COMPLETE for trial in trials])
            yield (
                name,
                plots.plane(
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
        if theirs.get("sampler") == "grid" and same and set(theirs["search"]) == set(ours["search"]):
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
