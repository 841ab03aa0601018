"""Points (b) to (f) of the original report: one training and its scores, seen from every side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from segmentation.metrics import BRIEF, CALIBRATION, METRICS, of_epoch
from segmentation.scoring.bootstrap import Interval
from studies.base import original_report as published
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.config import TrainConfig, decisive
from studies.report.collected import Collected, Held
from studies.report.markup import NO_BREAK, Page, figure, interval, measured, shortened
from studies.scores.recording import NoiseFloor, in_words, small_print

PROTOCOL = (
    "dataset", "train_split", "val_split", "model", "weights", "resize", "crop", "normalization", "optimizer",
    "momentum", "learning_rate", "weight_decay", "batch_size", "epochs", "seed",
)  # fmt: skip
"""Fields that are told whether or not they differ from the original report's."""
CURVES = of_epoch()


def original_data(reported: Collected) -> bool:
    """Whether the scores are of the images that the original report scored."""
    rules = (reported.scores or {}).get("protocol", {})
    return bool(rules.get("dataset") == published.GRID_DATASET and rules.get("split") == "val")


def made_by(page: Page, *runs: Held) -> None:
    """End a section with the runs that made it, and their commands."""
    for run in runs:
        seed = f", seed {escaped(run.config['seed'])}" if run.kind == "train" and "seed" in run.config else ""
        name = escaped(shortened(run.name))
        page.text(f"Made by [{run.anchor.replace('-', ' ')}](#{run.anchor}), {run.kind}{seed}, {name}:")
        page.code(run.command)


def protocol(page: Page, reported: Collected) -> None:
    """How the model was trained and scored, beside what the original report did."""
    page.heading("Protocol")
    usual = asdict(TrainConfig())
    config = reported.main.config if reported.main else (reported.scores or {}).get("origin", {}).get("config", {})
    differing = [name for name, value in decisive(config).items() if name in usual and usual[name] != value]
    names = [name for name in (*PROTOCOL, *differing) if name in config]
    if names:
        page.table(
            ["", "here", "original report"],
            [
                [name, escaped(config[name]), "not told" if name == "seed" else escaped(usual[name])]
                for name in dict.fromkeys(names)
            ],
        )
    page.text("The loss is cross-entropy over all pixels but void ones. Fields that are not listed are as there.")
    if reported.scores:
        rules = reported.scores["protocol"]
        page.text(
            f"Scored: {escaped(rules['dataset'])}/{escaped(rules['split'])}, {escaped(small_print(rules))}, confidence "
            f"of the {escaped(rules['confidence'])}. In brackets: {escaped(rules['intervals'])}. They tell what other "
            f"images might have shown, not what other seeds might have. Images and masks: `{rules['fingerprint']}`."
        )
        if original_data(reported):
            page.text(
                f"The original report has trained on {published.TRAINING_IMAGES} and scored "
                f"{published.VALIDATION_IMAGES} images of this data set; its published figures stand beside ours."
            )
        else:
            page.text(
                f"The original report's published figures are of other images ({published.GRID_DATASET}/val) and are "
                f"not comparable with these; they are left out."
            )


def loss(page: Page, reported: Collected) -> None:
    """(b): loss curves."""
    page.heading("(b) Loss")
    if not _curve(page, reported, "loss", "Loss of training and validation over the epochs"):
        return
    rows = list(_epochs(reported))
    page.table(["epoch", "", "train/loss", "val/loss"], [[*row[:2], *row[2:4]] for row in rows])
    if reported.scores and reported.split == "val":
        page.text(f"Of the kept network, on the whole split: loss {measured(reported.scores, 'loss')}.")
    _made_by_main(page, reported)


def accuracy(page: Page, reported: Collected) -> None:
    """(c): accuracy over the epochs, and in the end."""
    page.heading("(c) Pixel accuracy")
    if _curve(page, reported, "accuracy", "Pixel accuracy of training and validation over the epochs"):
        header = ["epoch", "", "train/pixel_accuracy", "val/pixel_accuracy", "val/mean_iou"]
        page.table(header, [[*row[:2], *row[4:7]] for row in _epochs(reported)])
    if reported.scores is None:
        _no_scores(page, reported, "the final accuracy")
        return
    page.text(
        f"**Final pixel accuracy {measured(reported.scores, 'pixel_accuracy')}**, mean accuracy of the classes "
        f"{measured(reported.scores, 'mean_class_accuracy')}, mean IoU {measured(reported.scores, 'mean_iou')}."
    )
    theirs = published.trained_like(_config(reported))
    if original_data(reported) and theirs and theirs == published.MODELS[0]:
        page.text(_beside(reported, "pixel_accuracy", published.FINAL_ACCURACY))
    _made_by_scores(page, reported)


def example(page: Page, reported: Collected) -> None:
    """(d): image, truth and prediction."""
    page.heading("(d) Image, truth and prediction")
    found = reported.scored.pictures("examples") if reported.scored else {}
    usual = [name for name in found if "_worst_" not in name]
    if reported.scored is None or not usual:
        _no_scores(page, reported, "pictures of an image with its true and predicted classes")
        return
    chosen = usual[len(usual) // 2]
    page.text("One of the images that were picked evenly over the split, not for their looks:")
    seen = "with its true classes, its predicted classes, the confidence, and the pixels that are wrong"
    page.picture(f"{reported.scored.run_id[:8]}-{chosen}.png", found[chosen], f"An image {seen}")
    worst = f"{reported.split}_worst_0"
    if worst in found:
        page.text("The image whose confidence was farthest from its accuracy:")
        page.picture(f"{reported.scored.run_id[:8]}-{worst}.png", found[worst], f"The worst calibrated image {seen}")
    _made_by_scores(page, reported)


def reliability(page: Page, reported: Collected) -> None:
    """(e): reliability diagram and its bins."""
    page.heading("(e) Reliability")
    if reported.scores is None or reported.scored is None:
        _no_scores(page, reported, "the reliability diagram")
        return
    diagram = reported.scored.pictures("reliability").get(reported.split)
    if diagram:
        name = f"{reported.scored.run_id[:8]}-reliability-{reported.split}.png"
        page.picture(name, diagram, "Reliability diagram: accuracy of the pixels by their confidence, and their share")
    record = reported.scores
    edges, total = record["edges"], sum(record["count"])
    rows = []
    for place, count in enumerate(record["count"]):
        confidence, right = record["confidence"][place], record["accuracy"][place]
        gap = None if confidence is None or right is None else right - confidence
        share = f"{count:,} ({count / total:.1%})" if total else "0"
        span = f"{edges[place]:g} to {edges[place + 1]:g}"
        rows.append([span, share, figure(confidence), figure(right), figure(gap, sign="+")])
    page.table(["confidence", "pixels", "mean confidence", "accuracy", "accuracy − confidence"], rows)
    page.text("Where accuracy is below confidence, the network is over-confident.")
    _made_by_scores(page, reported)


def calibration_error(page: Page, reported: Collected) -> None:
    """(f): ECE, and what is to be thought of it."""
    page.heading("(f) Expected calibration error")
    if reported.scores is None:
        _no_scores(page, reported, "the ECE")
        return
    record = reported.scores
    page.text(f"**ECE {measured(record, 'ece')}**", verdict(record))
    rows = [[name, measured(record, name), METRICS[name].meaning] for name in CALIBRATION if name in record["metrics"]]
    page.table(["", "value [95 %]", "meaning"], rows)
    if "ece_by_bins" in record:
        counted = ", ".join(f"{figure(value)} in {escaped(bins)}" for bins, value in record["ece_by_bins"].items())
        page.text(f"With other numbers of bins: {counted}.")
    theirs = published.trained_like(_config(reported))
    if original_data(reported) and theirs:
        page.text(_beside(reported, "ece", theirs.ece))
    _made_by_scores(page, reported)


def mended(page: Page, reported: Collected) -> None:
    """What calibrations have changed; nothing if there is none."""
    if not reported.calibrations:
        return
    page.heading("Confidence, mended")
    rows = []
    shown = sorted(BRIEF, key=lambda name: name not in CALIBRATION)
    for run in reported.calibrations:
        changes = (run.record("calibration/changes.json") or {}).get("changes", {})
        fit = run.record("calibration/fit.json") or {}
        cells = []
        for name in shown:
            change = changes.get(name)
            cells.append("–" if change is None else f"{figure(change['before'])}{NO_BREAK}→ {figure(change['after'])}")
            cells.append("–" if change is None else _ends(change["interval"]))
        fitted = f"{escaped(fit.get('split', '–'))}, {escaped(fit.get('images', '–'))} images"
        of = escaped(str(run.config.get("run_id", "")).removeprefix("runs:/")[:8])
        rows.append([f"[{escaped(run.config.get('method', run.name))}](#{run.anchor})", of, fitted, *cells])
    header = ["method", "of run", "fitted on"]
    page.table([*header, *(part for name in shown for part in (name, f"change of {name}"))], rows)
    main = reported.main.run_id if reported.main else ""
    of_main = [run for run in reported.calibrations if main in str(run.config.get("run_id"))]
    first = (of_main or list(reported.calibrations))[0]
    if "before_and_after" in first.pictures("calibration"):
        page.text(f"Before and after, {escaped(first.name)}:")
        content = first.pictures("calibration")["before_and_after"]
        page.picture(f"{first.run_id[:8]}-before-and-after.png", content, "Reliability before and after calibration")
    made_by(page, *reported.calibrations)


def every_epoch(page: Page, reported: Collected) -> None:
    """The numbers behind the curves."""
    epochs = sorted({epoch for points in reported.history.values() for epoch in points})
    if not epochs:
        return
    page.heading("Every epoch")
    ends = [reported.history.get(f"val/ece_{end}", {}) for end in ("low", "high")]
    rows = []
    for epoch in epochs:
        row = [figure(reported.history.get(name, {}).get(epoch)) for name in CURVES[:-1]]
        ece = figure(reported.history.get("val/ece", {}).get(epoch), [end.get(epoch) for end in ends])
        rows.append([str(epoch), *row, ece])
    page.table(["epoch", *CURVES], rows)
    page.text("The interval of an epoch comes from fewer resamples than that under (f), so its ends differ a little.")


def verdict(record: Mapping[str, Any]) -> str:
    """The figures of calibration in words, as far as the run has stored what they need."""
    floor = record.get("noise_floor")
    if not isinstance(floor, Mapping):
        told = "On as many images, a perfectly calibrated network would show an ECE of"
        return "" if floor is None else f"{told} {floor:.4f} on average."
    numbers = {name: _number(value) for name, value in record["metrics"].items()}
    ends = {name: Interval(*map(_number, pair)) for name, pair in record["intervals"].items()}
    mean_and_highest = NoiseFloor(_number(floor["mean"]), _number(floor["highest"]))
    return escaped(in_words(numbers, ends, mean_and_highest, int(record["protocol"]["images"])))


def kept_epoch(reported: Collected) -> int | None:
    """The epoch whose network was scored."""
    epoch = (reported.scores or {}).get("origin", {}).get("epoch")
    return None if epoch is None else int(epoch)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _ends(ends: Sequence[float | None]) -> str:
    known = [end for end in ends if end is not None]
    return interval(known, "+") if len(known) == 2 else "–"


def _config(reported: Collected) -> Mapping[str, Any]:
    return reported.main.config if reported.main else (reported.scores or {}).get("origin", {}).get("config", {})


def _curve(page: Page, reported: Collected, name: str, alt: str) -> bool:
    """Show the curve, or say that it is missing; returns whether it is there."""
    run = reported.main
    if run is None or name not in run.pictures("curves"):
        page.lacks(f"the {name} curves, since no training is reported that has them", _train_command(reported))
        return False
    page.picture(f"{run.run_id[:8]}-{name}.png", run.pictures("curves")[name], alt)
    return True


def _epochs(reported: Collected) -> Iterator[list[str]]:
    """The kept and the last epoch, each with what it is and the figures of the curves."""
    epochs = sorted(reported.history.get("val/loss", {}))
    kept = kept_epoch(reported)
    if kept in epochs and kept != epochs[-1]:
        yield [str(kept), "kept", *_figures_at(reported, kept)]
    if epochs:
        yield [str(epochs[-1]), "last, kept" if kept == epochs[-1] else "last", *_figures_at(reported, epochs[-1])]


def _figures_at(reported: Collected, epoch: int) -> list[str]:
    return [figure(reported.history.get(name, {}).get(epoch)) for name in CURVES]


def _train_command(reported: Collected) -> str:
    config = _config(reported) or next((study.run.config for study in reported.studies), {})
    return command("train", config)


def _no_scores(page: Page, reported: Collected, what: str) -> None:
    if reported.main is None:
        page.lacks(f"{what}, since no training is reported", _train_command(reported))
        return
    values = {"model_uri": reported.main.run_id, "split": reported.split}
    page.lacks(f"{what} on split {escaped(reported.split)}", command("evaluate", values, always=("split",)))


def _made_by_main(page: Page, reported: Collected) -> None:
    if reported.main:
        made_by(page, reported.main)


def _made_by_scores(page: Page, reported: Collected) -> None:
    runs = [run for run in (reported.main, reported.scored) if run]
    made_by(page, *{run.run_id: run for run in runs}.values())


def _beside(reported: Collected, metric: str, theirs: float) -> str:
    """What our interval allows to be concluded about a published figure."""
    record = reported.scores or {}
    ours, ends = record["metrics"][metric], record["intervals"][metric]
    named = METRICS[metric].label
    told = f"The original report's {named} is {theirs:g}, ours {figure(ours, ends)}."
    if None in ends:
        return told
    if ends[0] <= theirs <= ends[1]:
        return f"{told} It lies within our interval: these images show no difference."
    better = METRICS[metric].higher_is_better is (ours > theirs)
    return (
        f"{told} It lies outside our interval, and ours is {'better' if better else 'worse'}: by more than the choice "
        f"of images explains, if theirs has an interval of the same width. Each is one training, so another seed may "
        f"show something else."
    )
