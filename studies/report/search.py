"""The hyperparameters that studies tried; point (h) of the original report, second half."""

from collections.abc import Mapping, Sequence
from typing import Any

from segmentation.metrics import BRIEF, HEADLINE, METRICS
from studies.base import original_report
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.content import ReportContent, ReportedRun, ReportedStudy
from studies.report.markup import Page, measured, number, on_one_line
from studies.report.one_model import add_sources
from studies.report.predictions import learned_nothing

TRIAL_METRICS = ("train/loss", *(f"val/{name}" for name in HEADLINE if name != "ece"))
NOT_HYPERPARAMETERS = ("trial", "state", "reason", "warning", "epoch", "epochs", "run_id")
"""Columns of `study/trials.csv` that are neither hyperparameters nor metrics."""
PLOTS = {
    "trials": "Curves of all trials of the study",
    "reliability": "Reliability of the best trials of the study",
    "history": "The best value so far by trial",
    "importances": "Importance of each hyperparameter",
    "pareto": "Trials by both objectives; the Pareto front is marked",
}
"""Plots of a study in the order of the page, after the maps, with their captions."""


def hyperparameters(page: Page, content: ReportContent) -> None:
    """Add the table and plots of every study, or the command that creates one."""
    page.heading("Hyperparameters", "h")
    for study in content.studies:
        if len(content.studies) > 1:
            page.lines += [f"### Study {escaped(study.run.tags.get('study', study.run.name))}", ""]
        _study(page, study)
    if not content.studies:
        config = content.main.config if content.main else {}
        same = {name: value for name, value in config.items() if name not in ("learning_rate", "weight_decay")}
        page.add_missing(
            "a study of learning rate and weight decay (`-P study_name=NAME` adds an existing one)",
            command("tune", same | {"sampler": "grid"}),
        )


def _study(page: Page, study: ReportedStudy) -> None:
    run, trials = study.run, study.run.rows("study/trials.csv")
    if not trials:
        page.add_missing("the table of the trials", run.command)
        return
    if run.status != "FINISHED":
        page.text(f"The run of this study has status {run.status}: trials may be missing.")
    page.text(*_summary(trials, study))
    found = run.images("study")
    fields = [name for name in trials[0] if "/" not in name and name not in NOT_HYPERPARAMETERS]
    protocol = _protocol(study) if _has_original_settings(run) else {}
    is_original = original_report.scored_the_same(protocol)
    objectives = objectives_of(run)
    more = [name for name in objectives if name not in (*TRIAL_METRICS, "val/ece") and name in trials[0]]
    header = ["trial", *fields, *more, *TRIAL_METRICS, "val/ece", "epoch", "state"]
    theirs = ["its val/loss", "its val/pixel_accuracy"] if is_original else []
    best = best_trial(study, trials)
    page.table([*header, *theirs], [_row(trial, fields, more, is_original, best) for trial in trials])
    page.text(
        ("★ is the best trial. " if best else "")
        + "Metrics of a trial are those of its kept epoch; of a pruned trial, those of its last epoch."
        + (" The last two columns are the original report's." if is_original else "")
    )
    if is_original:
        page.text(_original_conclusion())
    elif protocol:
        page.text(escaped(original_report.why_left_out(protocol)))
    for name, alt in (maps(objectives) | PLOTS).items():
        if name in found:
            page.image(f"{run.run_id[:8]}-{name}.png", found[name], alt)
    add_sources(page, run)


def objectives_of(run: ReportedRun) -> list[str]:
    """Return the metrics that a study optimises, such as `val/loss`, the first one first."""
    several = run.config.get("objectives")
    return [name.strip() for name in str(several or run.config.get("objective", "val/loss")).split(",")]


def maps(objectives: Sequence[str]) -> dict[str, str]:
    """Return the maps of metrics over the hyperparameters with their captions, those of the objectives first."""
    found = {}
    for metric in dict.fromkeys([*objectives, *(f"val/{name}" for name in BRIEF)]):
        short = metric.removeprefix("val/")
        label = f"validation {METRICS[short].label}" if short in METRICS else metric
        ending = ", the objective of the study" if metric in objectives else ""
        found[short.replace("/", "_")] = f"Map of the {label} by hyperparameters{ending}"
    return found


def best_trial(study: ReportedStudy, trials: Sequence[Mapping[str, str]]) -> str:
    """Return the number of the best trial, as the study has stored it; empty if there is none."""
    best_run = study.run.tags.get("best_run")
    of_run = next((trial["trial"] for trial in trials if best_run and trial["run_id"] == best_run), "")
    return study.run.tags.get("best_trial", of_run)


def _summary(trials: Sequence[dict[str, str]], study: ReportedStudy) -> tuple[str, ...]:
    """Return the number of trials, the best one, and which other trials are too close to distinguish."""
    states = [trial["state"] for trial in trials]
    counts = ", ".join(f"{states.count(state)} {escaped(state)}" for state in dict.fromkeys(states))
    objectives = objectives_of(study.run)
    text = f"{len(trials)} trials: {counts}. {_and_directions(objectives)}"
    best, number_of_best = study.best, best_trial(study, trials)
    row = next((trial for trial in trials if trial["trial"] == number_of_best), {})
    if best is None:
        return (text,)
    values = "".join(f", {escaped(name)} {number(_float(row, name))}" for name in objectives if row.get(name))
    text += f" Best: trial {escaped(number_of_best)}{values}: [{escaped(best.name)}](#{best.anchor})"
    scores = next((best.json(path) for path in best.files if path.endswith(".json")), None)
    if scores is None:
        return (f"{text}.",)
    text += f", loss {measured(scores, 'loss')}, pixel accuracy {measured(scores, 'pixel_accuracy')}, "
    text += f"ECE {measured(scores, 'ece')}."
    reason = learned_nothing(best, str(scores["protocol"]["split"]))
    warning = f"**Warning:** the best trial has learned no segmentation: it {escaped(reason)}." if reason else ""
    tags = study.run.tags
    baseline = f"{escaped(tags['baseline'])}." if "baseline" in tags else ""
    unbeaten = f"**Warning:** {escaped(tags['warning.baseline'])}" if "warning.baseline" in tags else ""
    warning = " ".join(filter(None, (baseline, unbeaten, warning)))
    objective = objectives[0]
    low, high = scores["intervals"].get(objective.removeprefix("val/")) or (None, None)
    if low is None or high is None or len(objectives) > 1:
        return text, warning
    values_of = {trial["run_id"]: trial.get(objective) for trial in trials if trial["state"] == "complete"}
    if set(values_of) <= {best.run_id}:
        return (text, warning, "No other trial was completed.")
    close = [
        run_id for run_id, value in values_of.items() if value and run_id != best.run_id and low <= float(value) <= high
    ]
    if not close:
        return (
            text,
            warning,
            (
                f"The {objective} of every other completed trial is outside the best trial's interval. All trials "
                f"have the same seed."
            ),
        )
    return (
        text,
        warning,
        (
            f"The {objective} of {len(close)} other completed trial{'' if len(close) == 1 else 's'} is inside the best "
            f"trial's interval, so the images may not distinguish them. To compare them: "
            f"`{command('compare', {'run_ids': ','.join([best.run_id, *close])})}`"
        ),
    )


def _and_directions(objectives: Sequence[str]) -> str:
    """Return the objectives of a study with their directions, in a sentence."""
    parts = []
    for objective in objectives:
        about = METRICS.get(objective.rpartition("/")[2])
        higher = about.higher_is_better if about else objective.startswith("val/iou/")
        parts.append(f"{escaped(objective)} ({'higher' if higher else 'lower'} is better)")
    return f"Objective{'s' if len(parts) > 1 else ''}: {' and '.join(parts)}."


def _row(
    trial: Mapping[str, str], fields: Sequence[str], more: Sequence[str], is_original: bool, best: str
) -> list[str]:
    ece = number(_float(trial, "val/ece"), [_float(trial, f"val/ece_{end}") for end in ("low", "high")])
    trial_number = escaped(trial["trial"])
    row = [f"**{trial_number} ★**" if trial["trial"] == best else trial_number]
    row += [_value(trial[name]) for name in fields]
    row += [number(_float(trial, name)) for name in (*more, *TRIAL_METRICS)]
    row += [on_one_line(ece), escaped(trial["epoch"]) or "–", escaped(trial["state"])]
    if is_original:
        cell = original_report.grid_cell(float(trial["learning_rate"]), float(trial["weight_decay"]))
        row += ["–", "–"] if cell is None else [f"{cell.val_loss:.3f}", f"{cell.val_accuracy:.3f}"]
    return row


def _value(text: str) -> str:
    """Format a number with six digits, since floats are stored with all of theirs; anything else unchanged."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return escaped(text)


def _float(trial: Mapping[str, str], name: str) -> float | None:
    return float(trial[name]) if trial.get(name) else None


def _has_original_settings(run: ReportedRun) -> bool:
    """Whether a study is a grid of the original report's model on its data set."""
    here = run.config.get("dataset"), run.config.get("model"), run.config.get("sampler")
    return here == (original_report.DATASET, original_report.GRID_MODEL, "grid")


def _protocol(study: ReportedStudy) -> Mapping[str, Any]:
    """Return how the trials were scored, as the best one records it; empty if there is none."""
    scores = None if study.best is None else study.best.json(f"reliability/{study.best.config.get('val_split')}.json")
    return (scores or {}).get("protocol", {})


def _original_conclusion() -> str:
    """Return the original report's conclusion next to what its own grid shows."""
    highest = max(cell.val_accuracy for cell in original_report.GRID)
    cells = [cell for cell in original_report.GRID if cell.val_accuracy == highest]
    where = " and ".join(f"{cell.learning_rate:g} with weight decay {cell.weight_decay:g}" for cell in cells)
    return (
        f"The original report concludes that a learning rate of 0.01 is best and that weight decay does not help. The "
        f"highest accuracy of its own grid, {highest:g}, is at a learning rate of {where}. Each cell is one run, "
        f"without an interval."
    )
