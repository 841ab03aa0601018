"""Point (h) of the original report, second half: the hyperparameters that studies tried."""

from collections.abc import Sequence

from segmentation.metrics import BRIEF, HEADLINE, METRICS
from studies.base import original_report
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.content import ReportContent, ReportedRun, ReportedStudy
from studies.report.markup import Page, measured, number
from studies.report.one_model import add_sources

TRIAL_METRICS = ("train/loss", *(f"val/{name}" for name in HEADLINE if name != "ece"))
NOT_HYPERPARAMETERS = ("trial", "state", "reason", "warning", "epoch", "epochs", "run_id")
"""Columns of `study/trials.csv` that are neither hyperparameters nor metrics."""
PLOTS = {
    **{name: f"Heat map of the validation {METRICS[name].label} by hyperparameters" for name in BRIEF},
    "trials": "Curves of all trials of the study",
    "reliability": "Reliability of the best trials of the study",
    "history": "The best value so far by trial",
    "importances": "Importance of each hyperparameter",
}
"""Plots of a study in the order of the page, with their alternative texts."""


def hyperparameters(page: Page, content: ReportContent) -> None:
    """Add the table and plots of every study, or the command that creates one."""
    page.heading("(h) Hyperparameters")
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
    is_original = _is_original_grid(run)
    header = ["trial", *fields, *TRIAL_METRICS, "val/ece", "epoch", "state"]
    theirs = ["its val/loss", "its val/pixel_accuracy"] if is_original else []
    page.table([*header, *theirs], [_row(trial, fields, is_original) for trial in trials])
    page.text(
        "Metrics of a trial are those of its kept epoch; of a pruned trial, those of its last epoch."
        + (" The last two columns are the original report's." if is_original else "")
    )
    if is_original:
        page.text(_original_conclusion())
    for name, alt in PLOTS.items():
        if name in found:
            page.image(f"{run.run_id[:8]}-{name}.png", found[name], alt)
    add_sources(page, run)


def _summary(trials: Sequence[dict[str, str]], study: ReportedStudy) -> tuple[str, ...]:
    """Return the number of trials, the best one, and which other trials are too close to distinguish."""
    states = [trial["state"] for trial in trials]
    counts = ", ".join(f"{states.count(state)} {escaped(state)}" for state in dict.fromkeys(states))
    text = f"{len(trials)} trials: {counts}."
    best = study.best
    if best is None:
        return (text,)
    text += f" Best: [{escaped(best.name)}](#{best.anchor})"
    scores = next((best.json(path) for path in best.files if path.endswith(".json")), None)
    if scores is None:
        return (f"{text}.",)
    text += f", loss {measured(scores, 'loss')}, pixel accuracy {measured(scores, 'pixel_accuracy')}, "
    text += f"ECE {measured(scores, 'ece')}."
    low, high = scores["intervals"]["loss"]
    if low is None or study.run.config.get("objectives") or study.run.config.get("objective") != "val/loss":
        return (text,)
    losses = {trial["run_id"]: trial.get("val/loss") for trial in trials if trial["state"] == "complete"}
    close = [run_id for run_id, loss in losses.items() if loss and run_id != best.run_id and low <= float(loss) <= high]
    if not close:
        return text, "The loss of every other completed trial is outside its interval. All trials have the same seed."
    return text, (
        f"The loss of {len(close)} other completed trial{'' if len(close) == 1 else 's'} is inside its interval, so "
        f"the images may not distinguish them. To compare them: "
        f"`{command('compare', {'run_ids': ','.join([best.run_id, *close])})}`"
    )


def _row(trial: dict[str, str], fields: Sequence[str], is_original: bool) -> list[str]:
    ece = number(_float(trial, "val/ece"), [_float(trial, f"val/ece_{end}") for end in ("low", "high")])
    row = [escaped(trial["trial"]), *(_value(trial[name]) for name in fields)]
    row += [number(_float(trial, name)) for name in TRIAL_METRICS]
    row += [ece, escaped(trial["epoch"]) or "–", escaped(trial["state"])]
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


def _float(trial: dict[str, str], name: str) -> float | None:
    return float(trial[name]) if trial.get(name) else None


def _is_original_grid(run: ReportedRun) -> bool:
    """Whether a study is a grid on the original report's data and model."""
    here = run.config.get("dataset"), run.config.get("model"), run.config.get("sampler")
    return here == (original_report.GRID_DATASET, original_report.GRID_MODEL, "grid")


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
