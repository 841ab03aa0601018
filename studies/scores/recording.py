"""What a run shows of a scored split: reliability, examples, confusion, and the numbers behind each picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

from segmentation import plots
from segmentation.config import DataConfig
from segmentation.data import Originals, Split
from segmentation.metrics import HEADLINE, METRICS
from segmentation.models.segmenter import Segmenter
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import LEVEL, RESAMPLES, Interval, interval
from segmentation.scoring.calibration_error import BINS
from segmentation.scoring.evaluate import at_size_of, evaluating
from segmentation.scoring.groups import Group, GroupReliability
from segmentation.scoring.scores import Scores
from segmentation.scoring.softmax import pixel_predictions
from studies import tracking
from studies.base.markdown import escaped
from studies.base.tables import csv_text, table

WORST = 3
"""Images shown for their high ECE."""
FEW = 20
"""Images below which a resampling knows too little of how images differ."""
USUAL_BINS = (5, 10, 12, 15, 20, 25, 30, 50, 100)


class NoiseFloor(NamedTuple):
    """The ECE that a perfectly calibrated network with the same confidences would show on as many images."""

    mean: float
    highest: float
    """Not exceeded in 95 % of cases."""


def protocol(config: DataConfig, split: Split | Originals, scores: Scores) -> dict[str, Any]:
    """The rules by which a split was scored: figures can be compared only where these agree.

    Args:
        config: how the pictures were prepared.
        split: what was scored.
        scores: the result.
    """
    original = isinstance(split, Originals)
    return {
        "bins": BINS, "edges": "(a, b], 0 in the first", "confidence": "top label, softmax in float32",
        "void": "255 is not counted", "precision": "float32", "tf32": False,
        "intervals": f"95 % bias-corrected percentile, {RESAMPLES} resamples of the images",
        "score_at": "original" if original else "training",
        "resolution": "each image's own" if isinstance(split, Originals) else list(split.masks.shape[1:]),
        "resize": config.resize, "crop": None if original else config.crop, "interpolation": config.interpolation,
        "boundary_width": scores.boundary_width, "dataset": split.dataset, "classes": list(split.labels.names),
        "split": split.name, "fingerprint": split.fingerprint,
        "in_crop": 1.0 if isinstance(split, Originals) else split.in_crop,
        "images": len(split), "pixels": int(scores.reliability.bins().count.sum()),
    }  # fmt: skip


def log_scores(
    network: Segmenter,
    split: Split | Originals,
    scores: Scores,
    rules: Mapping[str, Any],
    origin: Mapping[str, Any],
    device: torch.device,
    examples: int,
    which: str,
    first: tuple[str, Image.Image] | None = None,
    pictures: bool = True,
) -> None:
    """Log every picture of a split and its numbers, set the run's description, and print the figures.

    Args:
        network: the scored network, on the device.
        split: what it was scored on.
        scores: the result.
        rules: by which it was scored, see `protocol`.
        origin: where the network comes from, see `StoredModel.origin`.
        device: where to compute the examples.
        examples: number of images to show.
        which: which state of which network, for the titles.
        first: what the description begins with instead of the figures, in Markdown, and the picture to show with it.
        pictures: whether to draw any.
    """
    scored = f"{split.dataset}/{split.name}, {len(split)} images"
    title, note = f"{scored}\n{which}", small_print(rules)
    metrics, resampled, groups = scores.metrics(), scores.resampled(), scores.groups()
    intervals = {name: interval(resampled[name], value) for name, value in metrics.items()}
    floor = NoiseFloor(float(np.mean(resampled["noise_floor"])), float(np.quantile(resampled["noise_floor"], LEVEL)))
    drawn = reliability_figures(scores, groups, intervals["ece"], title, note) if pictures else ()
    logged = [tracking.log_figure(figure, f"reliability/{split.name}{name}.png") for name, figure in drawn]
    record = {
        "metrics": metrics, "intervals": intervals, "noise_floor": floor._asdict(),
        "ece_by_bins": {str(bins): scores.reliability.ece(bins) for bins in USUAL_BINS},
        "groups": [_group_record(*each) for each in groups.items()], "origin": dict(origin),
        "palette": split.labels.palette,
    }  # fmt: skip
    tracking.log_json(record | bins_record(scores, rules), f"reliability/{split.name}.json")
    with tracking.artifact_file(f"reliability/{split.name}_histograms.npz") as file:
        scores.save(file, {"name": np.array(split.names), "digest": np.array(split.digests)})
    order = np.argsort(-np.nan_to_num(scores.image_ece()), kind="stable")
    tracking.log_table(_images_csv(scores, split.names, order), f"reliability/{split.name}_images.csv")
    tracking.log_table(_confusion_csv(scores), f"confusion/{split.name}.csv")
    if pictures:
        confusion = plots.confusion(scores.confusion.counts, split.labels, title)
        tracking.log_figure(confusion, f"confusion/{split.name}.png")
        log_examples(network, split, scores, order, device, examples, which)
    said = in_words(metrics, intervals, floor, len(split))
    if cut := about_crop(rules.get("in_crop", 1.0)):
        said += f" {cut}"
    figures = f"**{escaped(scored)}: {escaped(which)}**\n\n{_key_figures(metrics, intervals)}\n\n{said}"
    tables = "\n\n".join([
        _metric_table(metrics, intervals), "**Classes**", _class_table(scores, groups), "**Parts of the images**",
        _region_table(groups), note,
    ])  # fmt: skip
    if first is None:
        tracking.log_note(figures, logged[:1], tables)
    else:
        tracking.log_note(first[0], [first[1]], f"{figures}\n\n{tables}")
    print(f"\n{scored}: {which}. In brackets, 95 % intervals over images.")
    for name, metric in METRICS.items():
        print(f"  {name:20} {metrics[name]:7.4f} {intervals[name]}   {metric.meaning}")
    print(said)


def in_words(metrics: Mapping[str, float], intervals: Mapping[str, Interval], floor: NoiseFloor, images: int) -> str:
    """Whether the network is over- or under-confident, and whether its ECE is more than chance."""
    gap, where = metrics["confidence_gap"], intervals["confidence_gap"]
    if math.isnan(gap):
        return "Nothing can be said: no pixel has a class."
    if where.low <= 0 <= where.high:
        lean = f"Neither over- nor under-confident as far as {images} images can tell"
    else:
        lean = f"{'Over' if gap < 0 else 'Under'}-confident by {abs(gap):.4f} on average"
    place = "above" if metrics["ece"] > floor.highest else "within"
    told = (
        f"{lean} (accuracy - confidence {gap:+.4f} {where}). Its ECE of {metrics['ece']:.4f} is {place} the noise "
        f"floor, what a perfectly calibrated network would show on {images} images: {floor.mean:.4f} on average, and "
        f"at most {floor.highest:.4f} in 95 % of cases."
    )
    if images < FEW:
        told += f" With only {images} images, all intervals are too narrow."
    return told


def small_print(rules: Mapping[str, Any]) -> str:
    """The rules of a figure in one line."""
    resolution = rules["resolution"]
    size = resolution if isinstance(resolution, str) else f"{resolution[1]} × {resolution[0]}"
    if rules.get("in_crop", 1.0) != 1:
        size += f" ({100 * rules['in_crop']:.3g} % of the split)"
    return (
        f"{rules['images']} images, {rules['pixels']:,} pixels · {rules['bins']} bins (a, b] · size {size}, "
        f"{rules['interpolation']} · void not counted · {rules['precision']}"
    )


def about_crop(in_crop: float) -> str:
    """How much of the images the crop leaves to learn from and to be scored, and which fields change that."""
    if in_crop == 1:
        return ""
    return (
        f"{100 * in_crop:.3g} % of the split's pixels lie in the crop and are counted, the others nowhere: crop=none "
        f"keeps all of images that are equally large, and evaluate with score_at=original scores whole images."
    )


def bins_record(scores: Scores, rules: Mapping[str, Any]) -> dict[str, object]:
    """The numbers of a reliability diagram, as they are drawn, with the rules that made them."""
    bins = scores.reliability.bins()
    return {
        "accuracy_minus_confidence": bins.signed_gap(),
        "protocol": dict(rules),
        "edges": bins.edges.tolist(),
        "count": bins.count.tolist(),
        "confidence": bins.confidence.tolist(),
        "accuracy": bins.accuracy.tolist(),
    }


def reliability_figures(
    scores: Scores, groups: Mapping[Group, GroupReliability], ece: Interval, title: str, note: str
) -> Iterator[tuple[str, Figure]]:
    """Every picture of calibration, with what to add to the split's name."""
    yield "", plots.reliability(scores.reliability.bins(), title, ece, scores.accuracy_band(), note)
    for suffix, kind, words in (
        ("_classes", "true class", "by true class"), ("_predicted", "predicted class", "by predicted class")
    ):  # fmt: skip
        panels = {group.name: found.bins for group, found in groups.items() if group.kind == kind}
        yield suffix, plots.reliability_panels(panels, f"{title}\n{words}", note)
    width = f"within {scores.boundary_width} pixels of a boundary"
    named = {"boundary": width, "interior": "interior", "foreground": "foreground", "background": "background"}
    for suffix, kind in (("_boundary", "region"), ("_foreground", "ground")):
        lines = {named[group.name]: found.bins for group, found in groups.items() if group.kind == kind}
        if lines:
            yield suffix, plots.reliability_lines(lines, title, note=note)
    ordered = scores.log_odds_bins()
    area = float(calibration.area_under_risk_coverage(ordered.count, ordered.correct))
    curve = calibration.risk_coverage(ordered.count, ordered.correct)
    yield "_risk_coverage", plots.risk_coverage({"network": curve}, title, {"network": f"area {area:.4f}"}, note=note)


def log_examples(
    network: Segmenter,
    split: Split | Originals,
    scores: Scores,
    worst_first: np.ndarray,
    device: torch.device,
    count: int,
    which: str,
) -> None:
    """Show images spread evenly over the split, and those with the highest ECE of their own."""
    stored: dict[str, list[np.ndarray]] = {"image": [], "truth": [], "predicted": []}
    chosen = _spread(split, count)
    for place, index in enumerate(chosen):
        shown = _predicted(network, split, index, device)
        for name, picture in zip(stored, shown, strict=False):
            stored[name].append(picture)
        tracking.log_figure(
            plots.example(*shown, split.labels, f"{split.names[index]}, {which}"), f"examples/{split.name}_{place}.png"
        )
    if len(chosen):
        with tracking.artifact_file(f"examples/{split.name}.npz") as file:
            arrays = {f"{name}_{place}": part for name, parts in stored.items() for place, part in enumerate(parts)}
            names, digests = (np.array([each[index] for index in chosen]) for each in (split.names, split.digests))
            np.savez_compressed(file, allow_pickle=False, name=names, digest=digests, **arrays)
    errors = scores.image_ece()
    for place, index in enumerate(worst_first[: min(WORST, count)]):
        rank = "worst" if place == 0 else f"number {place + 1} of the worst"
        title = f"{split.names[index]}, {which}\n{rank} calibrated by its own ECE, {errors[index]:.4f}"
        shown = _predicted(network, split, int(index), device)
        tracking.log_figure(plots.example(*shown, split.labels, title), f"examples/{split.name}_worst_{place}.png")


def example_plots(
    network: Segmenter, split: Split, device: torch.device, count: int, which: str
) -> Iterator[tuple[str, Figure]]:
    """Images spread evenly over the split; yields a name and a picture for each."""
    for place, index in enumerate(_spread(split, count)):
        shown = _predicted(network, split, index, device)
        yield f"{place}", plots.example(*shown, split.labels, f"{split.names[index]}, {which}")


def _spread(split: Split | Originals, count: int) -> list[int]:
    return [int(index) for index in np.unique(np.linspace(0, len(split) - 1, count).round().astype(int))]


def _predicted(
    network: Segmenter, split: Split | Originals, index: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image `(H, W, 3)` uint8, truth and prediction `(H, W)` uint8 and confidence `(H, W)`, all of one size."""
    images, masks = split.gather(np.array([index]))
    with evaluating(network):
        logits = at_size_of(masks, network(images.to(device)))
        pixels = pixel_predictions(logits, masks.to(device))
    if images.shape[2:] != masks.shape[1:]:
        images = F.interpolate(images.float(), masks.shape[1:], mode="bilinear").round().to(torch.uint8)
    return (
        images[0].permute(1, 2, 0).numpy(), masks[0].numpy(), pixels.label[0].cpu().numpy().astype(np.uint8),
        pixels.confidence[0].cpu().numpy(),
    )  # fmt: skip


def _group_record(group: Group, found: GroupReliability) -> dict[str, object]:
    bins = found.bins
    return {
        "kind": group.kind, "name": group.name, "pixels": int(bins.count.sum()),
        "ece": bins.ece(), "ece_interval": found.ece,
        "accuracy_minus_confidence": bins.signed_gap(), "accuracy_minus_confidence_interval": found.confidence_gap,
        "count": bins.count.tolist(), "confidence": bins.confidence.tolist(), "accuracy": bins.accuracy.tolist(),
    }  # fmt: skip


def _key_figures(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    return " · ".join(f"{METRICS[name].label} {metrics[name]:.4f} {intervals[name]}" for name in HEADLINE)


def _metric_table(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    rows = [[name, f"{metrics[name]:.4f}", str(intervals[name]), metric.meaning] for name, metric in METRICS.items()]
    return "\n".join(table(["metric", "value", "95 % over images", "meaning"], rows))


def _class_table(scores: Scores, groups: Mapping[Group, GroupReliability]) -> str:
    rows = []
    by_class = zip(scores.labels.names, scores.confusion.iou(), scores.confusion.class_accuracy(), strict=True)
    for name, iou, accuracy in by_class:
        true, predicted = (groups[Group(kind, name)] for kind in ("true class", "predicted class"))
        rows.append([escaped(name), f"{iou:.3f}", f"{accuracy:.3f}", _gap_cell(true), _gap_cell(predicted)])
    header = ["class", "IoU", "accuracy", "accuracy - confidence where it is true", "where it is predicted"]
    return "\n".join(table(header, rows))


def _region_table(groups: Mapping[Group, GroupReliability]) -> str:
    rows = [
        [group.name, f"{found.bins.ece():.4f} {found.ece}", _gap_cell(found)]
        for group, found in groups.items()
        if group.kind in ("region", "ground")
    ]
    return "\n".join(table(["part", "ECE", "accuracy - confidence"], rows))


def _gap_cell(found: GroupReliability) -> str:
    return f"{found.bins.signed_gap():+.3f} {found.confidence_gap}" if found.bins.count.sum() else "no pixels"


def _images_csv(scores: Scores, names: Sequence[str], order: np.ndarray) -> str:
    columns: list[list[object]] = []
    errors, place = scores.image_ece(), 0
    for block in scores.blocks():
        count, right, total = (block[name].sum(-1) for name in ("count", "correct", "confidence_sum"))
        for row in range(len(count)):
            pixels = int(count[row])
            values = (right[row], total[row], right[row] - total[row], block["negative_log_likelihood"][row])
            shares = [f"{value / pixels:.6f}" if pixels else "" for value in values]
            columns.append([names[place], pixels, f"{errors[place]:.6f}" if pixels else "", *shares])
            place += 1
    header = ["image", "pixels", "ece", "pixel_accuracy", "confidence", "accuracy_minus_confidence", "loss"]
    return csv_text(header, (columns[index] for index in order))


def _confusion_csv(scores: Scores) -> str:
    counts = zip(scores.labels.names, scores.confusion.counts.tolist(), strict=True)
    return csv_text(["true class \\ predicted class", *scores.labels.names], ([name, *row] for name, row in counts))
