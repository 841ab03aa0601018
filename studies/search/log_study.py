"""Logs a study into its MLflow run: description, table of trials, plots, metrics and tags."""

from collections.abc import Iterator

from optuna import Study
from optuna.trial import TrialState

from segmentation.metrics import HEADLINE, METRICS, ON_TRAIN, of_model
from studies import tracking
from studies.base import original_report
from studies.base.markdown import code, escaped
from studies.base.tables import csv_text, table
from studies.config import folds_trained
from studies.search.budget import epochs_used
from studies.search.constant_model import constant_model, unbeaten_warning
from studies.search.folds import STD
from studies.search.plan import Plan
from studies.search.space import format_value
from studies.search.study_plots import repeats_original_grid, study_plots
from studies.search.summary import (
    best_lines,
    confirmation_line,
    confirmed_values,
    format_metric,
    progress_line,
    train_command,
)
from studies.search.trials import EPOCHS, RUN, STATES, WARNING, best_trial, counted_trials, kept_metrics, reason_of

COLUMNS = ("train/loss", *(f"val/{name}" for name in HEADLINE))
"""Metrics in the table of trials: those of the original report, mean IoU, and the ECE with its interval."""


def log_progress(study: Study, plan: Plan, parent: str) -> None:
    """Log the table of trials and the description to the study's run, which may be open in another process."""
    description, trials = "\n".join(_description(study, plan, None)), "\n".join(_markdown_table(study, plan))
    tracking.log_table(f"{description}\n\n{trials}\n", "study/trials.md", parent)
    tracking.log_note(description, details=trials, run_id=parent)


def log_study(study: Study, plan: Plan, confirmed: Study | None) -> None:
    """Log everything about a study to the open run."""
    description, trials = "\n".join(_description(study, plan, confirmed)), "\n".join(_markdown_table(study, plan))
    tracking.log_table(f"{description}\n\n{trials}\n", "study/trials.md")
    tracking.log_table(_csv_table(study, plan), "study/trials.csv")
    heat_map, in_description = plan.objectives[0].metric.removeprefix("val/").replace("/", "_"), []
    for name, figure in study_plots(study, plan):
        image = tracking.log_figure(figure, f"study/{name}.png")
        if name in (heat_map, "trials"):
            in_description.append(image)
    tracking.log_note(description, in_description, trials)
    best = best_trial(study)
    tags = {"objective": ",".join(objective.metric for objective in plan.objectives)}
    if (constant := constant_model(study)) is not None:
        tags["baseline"] = str(constant)
        if warning := unbeaten_warning(study, plan.objectives[0]):
            tags["warning.baseline"] = warning
    tracking.log_tags(tags)
    if best is not None:
        # the names that training runs use, so that one filter in the UI finds both
        names = [of_model(objective.metric) for objective in plan.objectives]
        metrics = dict(zip(names, best.values, strict=True))
        tracking.log_metrics(metrics | {"study/trials": len(counted_trials(study)), "study/epochs": epochs_used(study)})
        if confirmed is not None:
            metrics = {}
            for objective, values in confirmed_values(confirmed, plan):
                metrics |= {f"confirmed/{objective.metric}": values.mean()}
                if len(values) > 1:
                    metrics |= {f"confirmed/{objective.metric}_deviation": values.std(ddof=1)}
            tracking.log_metrics(metrics)
        tracking.log_tags({"best_trial": str(best.number), "best_run": str(best.user_attrs[RUN])})


def _description(study: Study, plan: Plan, confirmed: Study | None) -> Iterator[str]:
    yield from (f"**{escaped(plan.name)}** — {progress_line(study, plan)}", "")
    for line in best_lines(study, plan):
        yield f"- {line}" if line.startswith("  ") else line
    if confirmed is not None:
        yield from ("", confirmation_line(confirmed, plan))
    best = best_trial(study)
    if best is not None:
        yield from ("", code(train_command(plan, best)))


def _columns(plan: Plan) -> list[str]:
    more = [objective.metric for objective in plan.objectives] + ([plan.constraint.metric] if plan.constraint else [])
    return list(dict.fromkeys([*COLUMNS, *more]))


def _markdown_table(study: Study, plan: Plan) -> Iterator[str]:
    theirs = ("the report's val/loss", "the report's val/pixel_accuracy")
    original = theirs if repeats_original_grid(study, plan) else ()
    searched = sorted(plan.space, key=lambda name: name != "weight_decay")
    columns = _columns(plan)
    header = ["trial", *searched, *columns, *original, "epoch", "state"]
    rows, best = [], best_trial(study)
    for trial in counted_trials(study):
        if trial.state == TrialState.WAITING and not kept_metrics(trial):
            continue
        values, metrics = plan.values(trial), kept_metrics(trial)
        number = f"**{trial.number} (best)**" if best is not None and trial.number == best.number else str(trial.number)
        cells = [number, *(escaped(format_value(values.get(name, ""))) for name in searched)]
        cells += [format_metric(metrics, metric) for metric in columns]
        if original:
            cell = original_report.grid_cell(values.get("learning_rate", -1.0), values.get("weight_decay", -1.0))
            cells += ["–", "–"] if cell is None else [f"{cell.val_loss:.3f}", f"{cell.val_accuracy:.3f}"]
        state = STATES.get(trial.state, trial.state.name.lower())
        cells += [
            str(metrics.get("epoch", "–")),
            escaped(", ".join(filter(None, [state, trial.user_attrs.get(WARNING)]))),
        ]
        rows.append(cells)
    if (constant := constant_model(study)) is not None:
        cells = [f"{constant.metrics[name]:.4f}" if name in constant.metrics else "–" for name in columns]
        rows.append(
            [
                f"{escaped(constant.most_frequent)} everywhere",
                *["–"] * len(searched),
                *cells,
                *["–"] * len(original),
                "–",
                "no model",
            ]
        )
    yield from table(header, rows)
    spread = "In brackets: 95 % intervals over the validation images."
    if folds_trained(plan.base) > 1:
        spread = f"Mean ± standard deviation over {plan.base.folds} folds; a pruned trial has its first fold only."
    yield from (
        "",
        f"Metrics are those of the epoch that was kept (keep={plan.base.keep}, {plan.base.monitor}), or of the last "
        f"epoch of a pruned trial. {spread}",
    )


def _csv_table(study: Study, plan: Plan) -> str:
    val_metrics = [f"val/{name}" for name in METRICS]
    columns = [*(f"train/{name}" for name in ON_TRAIN), *val_metrics, "val/ece_low", "val/ece_high"]
    columns += [column for column in _columns(plan) if column not in columns]
    if folds_trained(plan.base) > 1:
        columns += [column + STD for column in _columns(plan)]
    header = ["trial", "state", "reason", "warning", *plan.space, "epoch", "epochs", *columns, "run_id"]
    rows = []
    for trial in counted_trials(study):
        values, metrics = plan.values(trial), kept_metrics(trial)
        rows.append([
            trial.number, trial.state.name.lower(), reason_of(trial, ""), trial.user_attrs.get(WARNING, ""),
            *(values.get(name, "") for name in plan.space), metrics.get("epoch", ""),
            trial.user_attrs.get(EPOCHS, 0), *(metrics.get(column, "") for column in columns),
            trial.user_attrs.get(RUN, ""),
        ])  # fmt: skip
    return csv_text(header, rows, line_end="\n")
