"""Sections on one model: metrics, protocol, points (b) to (f) of the original report, calibrations, epochs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from segmentation import plots
from segmentation.classes import Classes
from segmentation.data.source import split_title
from segmentation.metrics import BRIEF, CALIBRATION, HEADLINE, METRICS, of_epoch
from segmentation.scoring.bootstrap import Interval
from studies.base import original_report
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.config import TrainConfig, decisive
from studies.report.content import ReportContent, ReportedRun
from studies.report.markup import NO_BREAK, Page, interval, measured, number, on_one_line, png, shortened
from studies.report.predictions import Counts, counts_of
from studies.scores.wording import NoiseFloor, calibration_sentence, protocol_line

PROTOCOL = (
    "dataset", "train_split", "val_split", "model", "weights", "resize", "crop", "normalization", "optimizer",
    "momentum", "learning_rate", "weight_decay", "batch_size", "epochs", "seed",
)  # fmt: skip
"""Fields that are listed whether or not they differ from the original report's."""
NOT_REPORTED = ("seed", "precision")
"""Fields that the original report does not mention."""
CURVES = of_epoch()
CHANGED = tuple(sorted(BRIEF, key=lambda name: name not in CALIBRATION))
"""Metrics whose change by a calibration is listed."""


def is_original_data(content: ReportContent) -> bool:
    """Whether the scores are of the images that the original report scored."""
    return original_report.scored_the_same((content.scores or {}).get("protocol", {}))


def add_sources(page: Page, *runs: ReportedRun) -> None:
    """End a section with the runs it shows; the list of runs has their commands."""
    parts = []
    for run in runs:
        seed = f", seed {escaped(run.config['seed'])}" if run.kind == "train" and "seed" in run.config else ""
        name = escaped(shortened(run.name))
        parts.append(f"[{run.anchor.replace('-', ' ')}](#{run.anchor}) ({run.kind}{seed}), {name}")
    if parts:
        page.text(f"From {'; '.join(parts)}.")


def metrics(page: Page, content: ReportContent) -> None:
    """Add the main metrics, those of each class, and the confusion matrix."""
    page.heading("Metrics")
    if content.scores is None or content.scored is None:
        _add_missing_scores(page, content, "the metrics")
        return
    scores = content.scores
    page.table(
        ["", "value [95 %]", "meaning"],
        [[METRICS[name].label, on_one_line(measured(scores, name)), METRICS[name].meaning] for name in HEADLINE],
    )
    counts = counts_of(content.scored, content.split)
    if counts is None:
        _add_missing_scores(page, content, "the metrics of each class")
        return
    total, labelled = max(1, counts.pixels.sum()), counts.pixels.sum(1)
    known = list(zip(counts.names, counts.iou(), counts.accuracy(), labelled.tolist(), strict=True))
    nowhere = [name for name, iou, _, _ in known if iou != iou]
    page.table(
        ["class", "IoU", "accuracy", "pixels"],
        [
            [escaped(name), number(iou), number(accuracy), f"{pixels:,} ({pixels / total:.1%})"]
            for name, iou, accuracy, pixels in known
            if name not in nowhere
        ],
    )
    absent = f"Neither labelled nor predicted: {escaped(', '.join(nowhere))}." if nowhere else ""
    page.text(f"Accuracy of a class: the fraction of its pixels that are predicted correctly. {absent}".rstrip())
    image = content.scored.images("confusion").get(content.split) or _drawn(counts, content)
    caption = "Confusion matrix: predicted class of the pixels of each true class, in percent"
    page.image(f"{content.scored.run_id[:8]}-confusion-{content.split}.png", image, caption)
    _add_score_sources(page, content)


def scored_data(content: ReportContent) -> str:
    """Return the name of the data set and of the split that were scored."""
    assert content.scores is not None
    rules = content.scores["protocol"]
    return split_title(rules["dataset"], str(content.config.get("data_dir", "")), rules["split"])


def _drawn(counts: Counts, content: ReportContent) -> bytes:
    """Return the plot of a confusion matrix for a run that has logged no plots."""
    assert content.scores is not None
    title = f"{scored_data(content)}, {content.scores['protocol']['images']} images"
    return png(plots.confusion(counts.pixels, Classes.named(*counts.names), title))


def protocol(page: Page, content: ReportContent) -> None:
    """Add how the model was trained and scored, next to the original report's protocol."""
    page.heading("Protocol")
    original = asdict(TrainConfig(keep="last"))  # the other defaults are the original report's protocol
    config = content.config
    differing = [name for name, value in decisive(config).items() if name in original and original[name] != value]
    names = dict.fromkeys(name for name in (*PROTOCOL, *differing) if name in config)
    if names:
        rows = []
        for name in names:
            value = escaped(config[name])
            if not content.is_like_original:
                rows.append([name, value])
            elif name in NOT_REPORTED:
                rows.append([name, value, "not reported"])
            else:
                same = config[name] == original[name]
                rows.append([name, value if same else f"**{value}**", escaped(original[name])])
        if content.is_like_original:
            page.table(["", "here", "original report"], rows)
            page.text("Bold: differs from the original report. Fields that are not listed have its values.")
        else:
            page.table(["field", "value"], rows)
            page.text("Fields that are not listed have their defaults.")
    page.text("The loss is the cross-entropy, averaged over all pixels that are not void.")
    if content.scores:
        rules = content.scores["protocol"]
        page.text(
            f"Scored on {escaped(scored_data(content))}: {escaped(protocol_line(rules))}; "
            f"confidence of the {escaped(rules['confidence'])}. Intervals in brackets: {escaped(rules['intervals'])}; "
            f"they cover the choice of images, not of the seed. Fingerprint of images and masks: "
            f"`{rules['fingerprint']}`."
        )
        if is_original_data(content):
            page.text(
                f"The original report trained on {original_report.TRAINING_IMAGES} and scored "
                f"{original_report.VALIDATION_IMAGES} images of this data set. Its metrics are shown next to ours."
            )
        elif content.is_like_original:
            page.text(escaped(original_report.why_left_out(rules)))


def loss(page: Page, content: ReportContent) -> None:
    """Add point (b): loss curves."""
    page.heading("Loss", "b")
    if not _curve(page, content, "loss", "Training and validation loss by epoch"):
        return
    rows = list(_kept_and_last_epoch(content))
    page.table(["epoch", "", "train/loss", "val/loss"], [[*row[:2], *row[2:4]] for row in rows])
    if content.scores and content.split == "val":
        page.text(f"Loss of the kept model on the whole split: {measured(content.scores, 'loss')}.")
    _add_main_source(page, content)


def accuracy(page: Page, content: ReportContent) -> None:
    """Add point (c): accuracy by epoch, and the final accuracy."""
    page.heading("Pixel accuracy", "c")
    if _curve(page, content, "accuracy", "Training and validation pixel accuracy by epoch"):
        header = ["epoch", "", "train/pixel_accuracy", "val/pixel_accuracy", "val/mean_iou"]
        page.table(header, [[*row[:2], *row[4:7]] for row in _kept_and_last_epoch(content)])
    if content.scores is None:
        _add_missing_scores(page, content, "the final accuracy")
        return
    page.text(
        f"**Pixel accuracy of the kept epoch: {measured(content.scores, 'pixel_accuracy')}**, mean class accuracy "
        f"{measured(content.scores, 'mean_class_accuracy')}, mean IoU {measured(content.scores, 'mean_iou')}."
    )
    theirs = original_report.trained_like(content.config)
    if is_original_data(content) and theirs and theirs == original_report.MODELS[0]:
        page.text(_next_to_original(content, "pixel_accuracy", original_report.FINAL_ACCURACY))
    _add_score_sources(page, content)


def example(page: Page, content: ReportContent) -> None:
    """Add point (d): an image, its labels and its prediction."""
    page.heading("Image, labels and prediction", "d")
    found = content.scored.images("examples") if content.scored else {}
    typical = [name for name in found if "_worst_" not in name]
    if content.scored is None or not typical:
        _add_missing_scores(page, content, "plots of images with their labels and predictions")
        return
    chosen = typical[len(typical) // 2]
    shown = "with its labels, prediction, confidence and wrong pixels"
    page.text("One of the examples, which are spaced evenly over the split:")
    page.image(f"{content.scored.run_id[:8]}-{chosen}.png", found[chosen], f"An image {shown}")
    worst = f"{content.split}_worst_0"
    if worst in found:
        page.text("The image with the highest ECE:")
        page.image(f"{content.scored.run_id[:8]}-{worst}.png", found[worst], f"The worst calibrated image {shown}")
    _add_score_sources(page, content)


def reliability(page: Page, content: ReportContent) -> None:
    """Add point (e): the reliability diagram and its bins."""
    page.heading("Reliability", "e")
    if content.scores is None or content.scored is None:
        _add_missing_scores(page, content, "the reliability diagram")
        return
    diagram = content.scored.images("reliability").get(content.split)
    if diagram:
        name = f"{content.scored.run_id[:8]}-reliability-{content.split}.png"
        page.image(name, diagram, "Reliability diagram: accuracy and fraction of the pixels by confidence")
    scores = content.scores
    edges, total = scores["edges"], sum(scores["count"])
    rows = []
    for index, count in enumerate(scores["count"]):
        confidence, accuracy = scores["confidence"][index], scores["accuracy"][index]
        gap = None if confidence is None or accuracy is None else accuracy - confidence
        pixels = f"{count:,} ({count / total:.1%})" if total else "0"
        span = f"{edges[index]:g} to {edges[index + 1]:g}"
        rows.append([span, pixels, number(confidence), number(accuracy), number(gap, sign="+")])
    page.table(["confidence", "pixels", "mean confidence", "accuracy", "accuracy − confidence"], rows)
    page.text("Below 0, the model is over-confident in that bin; above 0, under-confident.")
    _add_score_sources(page, content)


def calibration_error(page: Page, content: ReportContent) -> None:
    """Add point (f): the ECE and related metrics."""
    page.heading("Expected calibration error", "f")
    if content.scores is None:
        _add_missing_scores(page, content, "the ECE")
        return
    scores = content.scores
    page.text(f"**ECE {measured(scores, 'ece')}**", verdict(scores))
    rows = [
        [name, on_one_line(measured(scores, name)), METRICS[name].meaning]
        for name in CALIBRATION
        if name in scores["metrics"]
    ]
    page.table(["", "value [95 %]", "meaning"], rows)
    if "ece_by_bins" in scores:
        by_bins = ", ".join(f"{number(value)} ({escaped(bins)})" for bins, value in scores["ece_by_bins"].items())
        page.text(f"ECE by number of bins: {by_bins}.")
    theirs = original_report.trained_like(content.config)
    if is_original_data(content) and theirs:
        page.text(_next_to_original(content, "ece", theirs.ece))
    _add_score_sources(page, content)


def calibrations(page: Page, content: ReportContent) -> None:
    """Add what post-hoc calibrations changed; nothing if there are none."""
    if not content.calibrations:
        return
    page.heading("Post-hoc calibration")
    rows = []
    for run in content.calibrations:
        changes = (run.json("calibration/changes.json") or {}).get("changes", {})
        fit = run.json("calibration/fit.json") or {}
        cells = []
        for name in CHANGED:
            change = changes.get(name)
            cells.append("–" if change is None else f"{number(change['before'])}{NO_BREAK}→ {number(change['after'])}")
            cells.append("–" if change is None else _ends(change["interval"]))
        fitted = f"{escaped(fit.get('split', '–'))}, {escaped(fit.get('images', '–'))} images"
        of = escaped(str(run.config.get("run_id", "")).removeprefix("runs:/")[:8])
        rows.append([f"[{escaped(run.config.get('method', run.name))}](#{run.anchor})", of, fitted, *cells])
    header = ["method", "of run", "fitted on"]
    page.table([*header, *(part for name in CHANGED for part in (name, f"change of {name}"))], rows)
    main = content.main.run_id if content.main else ""
    of_main = [run for run in content.calibrations if main in str(run.config.get("run_id"))]
    first = (of_main or list(content.calibrations))[0]
    if "before_and_after" in first.images("calibration"):
        page.text(f"Before and after, {escaped(first.name)}:")
        diagram = first.images("calibration")["before_and_after"]
        page.image(f"{first.run_id[:8]}-before-and-after.png", diagram, "Reliability before and after calibration")
    add_sources(page, *content.calibrations)


def every_epoch(page: Page, content: ReportContent) -> None:
    """Add the values of the curves."""
    epochs = sorted({epoch for points in content.history.values() for epoch in points})
    if not epochs:
        return
    page.heading("Metrics by epoch")
    ends = [content.history.get(f"val/ece_{end}", {}) for end in ("low", "high")]
    rows = []
    for epoch in epochs:
        ece = number(content.history.get("val/ece", {}).get(epoch), [end.get(epoch) for end in ends])
        rows.append([str(epoch), *_metrics_at(content, epoch)[:-1], on_one_line(ece)])
    page.table(["epoch", *CURVES], rows)
    page.text("Intervals of epochs use fewer resamples than those of the kept model, and so differ a little.")


def verdict(scores: Mapping[str, Any]) -> str:
    """Return the calibration in words; empty if the run did not store the noise floor."""
    floor = scores.get("noise_floor")
    if floor is None:
        return ""
    if not isinstance(floor, Mapping):  # of early versions
        return f"A perfectly calibrated model has an expected ECE of {floor:.4f} on as many images."
    metrics = {name: _not_none(value) for name, value in scores["metrics"].items()}
    intervals = {name: Interval(*map(_not_none, pair)) for name, pair in scores["intervals"].items()}
    noise_floor = NoiseFloor(_not_none(floor["mean"]), _not_none(floor["highest"]))
    return escaped(calibration_sentence(metrics, intervals, noise_floor, int(scores["protocol"]["images"])))


def kept_epoch(content: ReportContent) -> int | None:
    """Return the epoch whose model was scored."""
    epoch = (content.scores or {}).get("origin", {}).get("epoch")
    return None if epoch is None else int(epoch)


def _not_none(value: float | None) -> float:
    return float("nan") if value is None else value


def _ends(ends: Sequence[float | None]) -> str:
    known = [end for end in ends if end is not None]
    return interval(known, "+") if len(known) == 2 else "–"


def _curve(page: Page, content: ReportContent, name: str, alt: str) -> bool:
    """Add a curve, or a note that it is missing; returns whether it was added."""
    run = content.main
    if run is None or name not in run.images("curves"):
        page.add_missing(f"the {name} curves, because no reported training run has them", _train_command(content))
        return False
    page.image(f"{run.run_id[:8]}-{name}.png", run.images("curves")[name], alt)
    return True


def _kept_and_last_epoch(content: ReportContent) -> Iterator[list[str]]:
    """Yield rows of epoch, `kept` or `last`, and the metrics of `CURVES`."""
    epochs = sorted(content.history.get("val/loss", {}))
    kept = kept_epoch(content)
    if kept in epochs and kept != epochs[-1]:
        yield [str(kept), "kept", *_metrics_at(content, kept)]
    if epochs:
        yield [str(epochs[-1]), "last, kept" if kept == epochs[-1] else "last", *_metrics_at(content, epochs[-1])]


def _metrics_at(content: ReportContent, epoch: int) -> list[str]:
    return [number(content.history.get(name, {}).get(epoch)) for name in CURVES]


def _train_command(content: ReportContent) -> str:
    config = content.config or next((study.run.config for study in content.studies), {})
    return command("train", config)


def _add_missing_scores(page: Page, content: ReportContent, what: str) -> None:
    if content.main is None:
        page.add_missing(f"{what}, because no training run is reported", _train_command(content))
        return
    values = {"model_uri": content.main.run_id, "split": content.split}
    page.add_missing(f"{what} on split {escaped(content.split)}", command("evaluate", values, always=("split",)))


def _add_main_source(page: Page, content: ReportContent) -> None:
    if content.main:
        add_sources(page, content.main)


def _add_score_sources(page: Page, content: ReportContent) -> None:
    runs = [run for run in (content.main, content.scored) if run]
    add_sources(page, *{run.run_id: run for run in runs}.values())


def _next_to_original(content: ReportContent, metric: str, theirs: float) -> str:
    """Return a published metric next to ours, and whether our interval contains it."""
    scores = content.scores or {}
    ours, ends = scores["metrics"][metric], scores["intervals"][metric]
    label = METRICS[metric].label
    text = f"{label[0].upper()}{label[1:]} of the original report: {theirs:g}; ours: {number(ours, ends)}."
    if None in ends:
        return text
    if ends[0] <= theirs <= ends[1]:
        return f"{text} Its value is inside our interval: these images show no difference."
    better = METRICS[metric].higher_is_better is (ours > theirs)
    return (
        f"{text} Its value is outside our interval, and ours is {'better' if better else 'worse'}. Its own interval is "
        f"unknown, and each value is of one seed: other seeds may differ as much."
    )
