"""A study as its MLflow run shows it: table of trials, pictures of the search, and what to do next."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.metrics import HEADLINE, METRICS, ON_TRAIN
from studies import tracking
from studies.base import original_report as published
from studies.base.markdown import code, escaped, table
from studies.base.rerun import command
from studies.search import space as spaces
from studies.search.goals import Goal
from studies.search.live import progress_in_words
from studies.search.plan import EPOCHS, RUN, STATES, Plan, best_trial, counted, in_state, spent
from studies.search.plot_data import has_published, search_plots
from studies.search.space import typed
from studies.search.storage import REASON
from studies.search.worker import METRICS_KEPT

COLUMNS = ("train/loss", *(f"val/{name}" for name in HEADLINE))
"""Figures of a trial in the table: the original report's, mean IoU, and the ECE with its interval."""


def log_progress(study: Study, plan: Plan, parent: str) -> None:
    """Write the table of trials and the description of the study's run, which may be another process's."""
    said, table = "\n".join(_said(study, plan, None)), "\n".join(_table(study, plan))
    tracking.log_table(f"{said}\n\n{table}\n", "study/trials.md", parent)
    tracking.log_note(said, details=table, run_id=parent)


def log_study(study: Study, plan: Plan, confirmed: Study | None) -> None:
    """Write everything about a study into the run that is open."""
    said, table = "\n".join(_said(study, plan, confirmed)), "\n".join(_table(study, plan))
    tracking.log_table(f"{said}\n\n{table}\n", "study/trials.md")
    tracking.log_table(_csv(study, plan), "study/trials.csv")
    plane, described = plan.goals[0].metric.removeprefix("val/").replace("/", "_"), []
    for name, figure in search_plots(study, plan):
        drawn = tracking.log_figure(figure, f"study/{name}.png")
        if name in (plane, "trials"):
            described.append(drawn)
    tracking.log_note(said, described, table)
    best = best_trial(study, plan)
    if best is not None:
        names = [f"best/{goal.metric.removeprefix('val/')}" for goal in plan.goals]  # as trainings name them
        shown = dict(zip(names, best.values, strict=True))
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
        headline = [f"val/{name}" for name in HEADLINE if name != "loss"]
        shown = dict.fromkeys([goal.metric for goal in plan.goals] + headline)
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
    return command("train", asdict(config), always=plan.space)


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


def _said(study: Study, plan: Plan, confirmed: Study | None) -> Iterator[str]:
    yield from (f"**{escaped(plan.name)}** — {progress_in_words(study, plan)}", "")
    for line in best_in_words(study, plan):
        yield f"- {line}" if line.startswith("  ") else line
    if confirmed is not None:
        yield from ("", confirmation_in_words(confirmed, plan))
    best = best_trial(study, plan)
    if best is not None:
        yield from ("", code(train_command(plan, best)))


def _table(study: Study, plan: Plan) -> Iterator[str]:
    theirs = ("the report's val/loss", "the report's val/pixel_accuracy") if has_published(plan) else ()
    fields_of = sorted(plan.space, key=lambda name: name != "weight_decay")
    columns = _columns(plan)
    header = ["trial", *fields_of, *columns, *theirs, "epoch", "state"]
    rows = []
    for trial in counted(study):
        if trial.state == TrialState.WAITING and METRICS_KEPT not in trial.user_attrs:
            continue
        values, figures = plan.values(trial), trial.user_attrs.get(METRICS_KEPT, {})
        cells = [str(trial.number), *(escaped(typed(values.get(name, ""))) for name in fields_of)]
        cells += [_figure(figures, metric) for metric in columns]
        if theirs:
            cell = published.grid_cell(values.get("learning_rate", -1.0), values.get("weight_decay", -1.0))
            cells += ["–", "–"] if cell is None else [f"{cell.val_loss:.3f}", f"{cell.val_accuracy:.3f}"]
        cells += [str(figures.get("epoch", "–")), STATES.get(trial.state, trial.state.name.lower())]
        rows.append(cells)
    yield from table(header, rows)
    yield from (
        "",
        f"Figures are those of the epoch kept (keep={plan.base.keep}, {plan.base.monitor}), of pruned trainings those "
        f"of their last epoch; in brackets, 95 % intervals over the validation images.",
    )


def _csv(study: Study, plan: Plan) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [f"val/{name}" for name in METRICS]
    columns = [*(f"train/{name}" for name in ON_TRAIN), *metrics, "val/ece_low", "val/ece_high"]
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
