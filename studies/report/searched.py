"""Point (h) of the original report, second half: the settings that were tried."""

from collections.abc import Sequence

from segmentation.metrics import BRIEF, HEADLINE, METRICS
from studies.base import original_report as published
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.collected import Collected, Held, Study
from studies.report.markup import Page, figure, measured
from studies.report.one_model import made_by

FIGURES = ("train/loss", *(f"val/{name}" for name in HEADLINE if name != "ece"))
NOT_SETTINGS = ("trial", "state", "reason", "epoch", "epochs", "run_id")
PICTURES = {
    **{name: f"Heat map of the validation {METRICS[name].label} over the settings" for name in BRIEF},
    "trials": "Curves of all trainings of the study",
    "reliability": "Reliability of the best trainings of the study",
    "history": "The best value so far over the trainings",
    "importances": "How much each setting matters",
}


def settings(page: Page, reported: Collected) -> None:
    """Every study's table and pictures, or what would make one."""
    page.heading("(h) Settings")
    for study in reported.studies:
        if len(reported.studies) > 1:
            page.lines += [f"### Study {escaped(study.run.tags.get('study', study.run.name))}", ""]
        _study(page, study)
    if not reported.studies:
        config = reported.main.config if reported.main else {}
        alike = {name: value for name, value in config.items() if name not in ("learning_rate", "weight_decay")}
        page.lacks(
            "a study of learning rate and weight decay (one that is elsewhere is reported with `-P study_name=NAME`)",
            command("tune", alike | {"sampler": "grid"}),
        )


def _study(page: Page, study: Study) -> None:
    run, trials = study.run, study.run.rows("study/trials.csv")
    if not trials:
        page.lacks("the table of its trainings", run.command)
        return
    if run.status != "FINISHED":
        page.text(f"This study's run has ended as {run.status}: not all of it may be done.")
    page.text(_summary(trials, study))
    found = run.pictures("study")
    fields = [name for name in trials[0] if "/" not in name and name not in NOT_SETTINGS]
    original = _is_original(run)
    header = ["trial", *fields, *FIGURES, "val/ece", "epoch", "state"]
    theirs = ["its val/loss", "its val/pixel_accuracy"] if original else []
    page.table([*header, *theirs], [_row(trial, fields, original) for trial in trials])
    page.text(
        "Of each training the figures of the epoch it kept, of a pruned one those of its last."
        + (" In the last two columns, the original report's." if original else "")
    )
    if original:
        page.text(_their_conclusion())
    for name in PICTURES:
        if name in found:
            page.picture(f"{run.run_id[:8]}-{name}.png", found[name], PICTURES[name])
    made_by(page, run)


def _summary(trials: Sequence[dict[str, str]], study: Study) -> str:
    """How many, which is best, and how many are too close to it to be told apart by this table."""
    states = [trial["state"] for trial in trials]
    told = ", ".join(f"{states.count(state)} {escaped(state)}" for state in dict.fromkeys(states))
    told = f"{len(trials)} trainings: {told}."
    best = study.best
    if best is None:
        return told
    told += f" Best: [{escaped(best.name)}](#{best.anchor})"
    record = next((best.record(path) for path in best.files if path.endswith(".json")), None)
    if record is None:
        return f"{told}."
    told += f", loss {measured(record, 'loss')}, pixel accuracy {measured(record, 'pixel_accuracy')}, "
    told += f"ECE {measured(record, 'ece')}."
    low, high = record["intervals"]["loss"]
    if low is None or study.run.config.get("objectives") or study.run.config.get("objective") != "val/loss":
        return told
    losses = {trial["run_id"]: trial.get("val/loss") for trial in trials if trial["state"] == "complete"}
    close = [run_id for run_id, loss in losses.items() if loss and run_id != best.run_id and low <= float(loss) <= high]
    if close:
        return (
            f"{told} The loss of {len(close)} other completed training(s) lies within its interval, so the images may "
            f"not tell these settings apart; `compare` would: "
            f"`{command('compare', {'run_ids': ','.join([best.run_id, *close])})}`"
        )
    return f"{told} No other completed training's loss lies within its interval; the seed is one and the same for all."


def _row(trial: dict[str, str], fields: Sequence[str], original: bool) -> list[str]:
    ece = figure(_float(trial, "val/ece"), [_float(trial, f"val/ece_{end}") for end in ("low", "high")])
    row = [escaped(trial["trial"]), *(_setting(trial[name]) for name in fields)]
    row += [figure(_float(trial, name)) for name in FIGURES]
    row += [ece, escaped(trial["epoch"]) or "–", escaped(trial["state"])]
    if original:
        cell = published.grid_cell(float(trial["learning_rate"]), float(trial["weight_decay"]))
        row += ["–", "–"] if cell is None else [f"{cell.val_loss:.3f}", f"{cell.val_accuracy:.3f}"]
    return row


def _setting(text: str) -> str:
    """A number as it was meant, since floats are stored with all their digits; anything else as it is."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return escaped(text)


def _float(trial: dict[str, str], name: str) -> float | None:
    return float(trial[name]) if trial.get(name) else None


def _is_original(run: Held) -> bool:
    """Whether it is a grid over the original report's data and network."""
    here = run.config.get("dataset"), run.config.get("model"), run.config.get("sampler")
    return here == (published.GRID_DATASET, published.GRID_MODEL, "grid")


def _their_conclusion() -> str:
    """What the original report's own grid says of what it concludes."""
    highest = max(cell.val_accuracy for cell in published.GRID)
    cells = [cell for cell in published.GRID if cell.val_accuracy == highest]
    where = " and ".join(f"{cell.learning_rate:g} with weight decay {cell.weight_decay:g}" for cell in cells)
    return (
        f"The original report concludes that a learning rate of 0.01 is best throughout and that regularisation does "
        f"not help. Its own grid has its highest accuracy, {highest:g}, at a learning rate of {where}; each cell is "
        f"one training, and no figure has an interval."
    )
