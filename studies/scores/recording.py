"""Records a scored split in the open run: metrics, plots, tables, and the run's description."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from segmentation import plots
from segmentation.config import DataConfig
from segmentation.data import Originals, Split
from segmentation.metrics import HEADLINE, METRICS
from segmentation.scoring import bootstrap
from segmentation.scoring.bootstrap import LEVEL, interval
from segmentation.scoring.boundary_iou import CONTOUR_WIDTH
from segmentation.scoring.calibration_error import BINS
from segmentation.scoring.groups import Group, GroupReliability
from segmentation.scoring.scores import Scores
from studies import tracking
from studies.base.markdown import escaped
from studies.scores.figures import example_title, predicted, reliability_figures, spread
from studies.scores.tables import (
    class_calibration_table,
    class_lines,
    class_scores,
    class_table,
    classes_csv,
    confusion_csv,
    images_csv,
    key_metrics,
    metric_table,
    overlap_table,
    region_table,
)
from studies.scores.wording import (
    PREDICTIONS,
    NoiseFloor,
    calibration_sentence,
    crop_note,
    few_images_warning,
    prediction_warnings,
    protocol_line,
)

WORST = 3
"""Number of images plotted for their high ECE."""
USUAL_BINS = (5, 10, 12, 15, 20, 25, 30, 50, 100)
"""Numbers of bins for which the ECE is stored too."""


class Lead(NamedTuple):
    """Beginning of a description, such as that of a calibration."""

    verdict: str
    """Markdown above the warnings."""
    details: str
    """Markdown below the warnings."""
    image: Image.Image


def protocol(config: DataConfig, split: Split | Originals, scores: Scores) -> dict[str, Any]:
    """Return the rules by which a split was scored. Metrics are comparable only where the rules are equal.

    Args:
        config: how the images were prepared.
        split: the scored split.
        scores: the result.
    """
    original = isinstance(split, Originals)
    size = None if isinstance(split, Originals) else split.size
    return {
        "bins": BINS, "edges": "(a, b], 0 in the first", "confidence": "top label, softmax in float32",
        "void": "255 is not counted", "precision": "float32", "tf32": False,
        "intervals": f"95 % bias-corrected percentile, {bootstrap.RESAMPLES} resamples of the images",
        "score_at": "original" if original else "training",
        "resolution": "each image's own" if size is None else list(size),
        "resize": config.resize, "crop": None if original or config.score_crop == "whole" else config.crop,
        "interpolation": config.interpolation,
        "boundary_width": scores.boundary_width, "contour_width": CONTOUR_WIDTH, "dataset": split.dataset,
        "classes": list(split.labels.names),
        "split": split.name, "fingerprint": split.fingerprint,
        "in_crop": 1.0 if isinstance(split, Originals) else split.in_crop,
        "images": len(split), "pixels": int(scores.reliability.bins().count.sum()),
    }  # fmt: skip


def log_scores(
    model: torch.nn.Module,
    split: Split | Originals,
    scores: Scores,
    rules: Mapping[str, Any],
    origin: Mapping[str, Any],
    device: torch.device,
    examples: int,
    state: str,
    lead: Lead | None = None,
    draw: bool = True,
    warnings: Sequence[str] = (),
) -> None:
    """Print the main metrics of a scored split, log its plots and tables, and set the run's description.

    Args:
        model: the scored model, on the device.
        split: the scored split.
        scores: the result.
        rules: see `protocol`.
        origin: where the model comes from, see `StoredModel.origin`.
        device: computes the examples.
        examples: number of images to plot.
        state: model and epoch, for titles.
        lead: begins the description instead of the metrics, which are not printed then.
        draw: whether to log plots.
        warnings: what else a reader of the scores must know.
    """
    scored = f"{split.title}, {len(split)} images"
    title, note = f"{scored}\n{state}", protocol_line(rules)
    metrics, resampled, groups = scores.metrics(), scores.resampled(), scores.groups()
    intervals = {name: interval(resampled[name], value) for name, value in metrics.items()}
    floor = NoiseFloor(float(np.mean(resampled["noise_floor"])), float(np.quantile(resampled["noise_floor"], LEVEL)))
    of_predictions, classes = prediction_warnings(scores, metrics["loss"]), class_scores(scores)
    warnings = [*of_predictions, *warnings, *few_images_warning(len(split))]
    sentence = calibration_sentence(metrics, intervals, floor, len(split))
    print(f"\n{scored}: {state}. Brackets: 95 % intervals over images.")
    for name in HEADLINE if lead is None else ():
        print(f"  {METRICS[name].label:16} {metrics[name]:7.4f} {intervals[name]}")
    for line in (*class_lines(classes), *(f"Warning: {warning}." for warning in warnings), sentence):
        print(line)
    if draw:
        print("Drawing plots ...", flush=True)
    drawn = reliability_figures(scores, groups, intervals, title, note) if draw else ()
    logged = [tracking.log_figure(figure, f"reliability/{split.name}{suffix}.png") for suffix, figure in drawn]
    record = {
        "metrics": metrics, "intervals": intervals, "noise_floor": floor._asdict(),
        "ece_by_bins": {str(bins): scores.reliability.ece(bins) for bins in USUAL_BINS},
        "groups": [_group_record(*each) for each in groups.items()], "origin": dict(origin),
        "palette": split.labels.palette, "warnings": warnings, "classes": [each.record() for each in classes],
    }  # fmt: skip
    tracking.log_json(record | bins_record(scores, rules), f"reliability/{split.name}.json")
    with tracking.artifact_file(f"reliability/{split.name}_histograms.npz") as file:
        scores.save(file, {"name": np.array(split.names), "digest": np.array(split.digests)})
    worst_first = np.argsort(-np.nan_to_num(scores.image_ece()), kind="stable")
    tracking.log_table(images_csv(scores, split.names, worst_first), f"reliability/{split.name}_images.csv")
    tracking.log_table(classes_csv(classes), f"reliability/{split.name}_classes.csv")
    tracking.log_table(confusion_csv(scores), f"confusion/{split.name}.csv")
    if draw:
        confusion = plots.confusion(scores.confusion.counts, split.labels, title)
        tracking.log_figure(confusion, f"confusion/{split.name}.png")
        log_examples(model, split, scores, worst_first, device, examples, state)
    if of_predictions:
        tracking.log_tags({PREDICTIONS: "; ".join(of_predictions)})
    # the UI shows about five lines of the description, the rest on a click
    noted = [f"**Warning:** {escaped(warning)}." for warning in warnings]
    counted = f" · {len(warnings)} warning{'s' if len(warnings) > 1 else ''}" if warnings else ""
    notes = [sentence]
    if (in_crop := rules.get("in_crop", 1.0)) != 1:
        notes.append(f"Note: {escaped(crop_note({split.name: in_crop}))}")
    heading, by_class = f"**{escaped(scored)}: {escaped(state)}{counted}**", class_table(classes)
    tables = "\n\n".join([
        metric_table(metrics, intervals), "**Overlap of the classes**", overlap_table(classes),
        "**Calibration of the classes**", class_calibration_table(scores, groups),
        "**Parts of the images**", region_table(groups), note,
    ])  # fmt: skip
    if lead is None:
        summary = [heading, key_metrics(metrics, intervals), *noted, by_class, *notes]
        tracking.log_note("\n\n".join(summary), logged[:1], tables)
    else:
        summary = [heading, key_metrics(metrics, intervals), by_class, *notes, tables]
        tracking.log_note("\n\n".join([lead.verdict, *noted, lead.details]), [lead.image], "\n\n".join(summary))
    print(f"All {len(METRICS)} metrics: the run's page in the UI, and its artifact reliability/{split.name}.json.")


def bins_record(scores: Scores, rules: Mapping[str, Any]) -> dict[str, object]:
    """Return the values of a reliability diagram, with the protocol."""
    bins = scores.reliability.bins()
    return {
        "accuracy_minus_confidence": bins.signed_gap(),
        "protocol": dict(rules),
        "edges": bins.edges.tolist(),
        "count": bins.count.tolist(),
        "confidence": bins.confidence.tolist(),
        "accuracy": bins.accuracy.tolist(),
    }


def log_examples(
    model: torch.nn.Module,
    split: Split | Originals,
    scores: Scores,
    worst_first: np.ndarray,
    device: torch.device,
    count: int,
    state: str,
) -> None:
    """Log `count` images spread evenly over the split with their predictions, and plots of those with the highest ECE.

    Args:
        worst_first: indices of all images by falling ECE.
    """
    stored: dict[str, list[np.ndarray]] = {"image": [], "truth": [], "predicted": []}
    chosen = spread(split, count)
    for number, index in enumerate(chosen):
        shown = predicted(model, split, index, device)
        for name, array in zip(stored, shown, strict=False):
            stored[name].append(array)
        tracking.log_figure(
            plots.example(*shown, split.labels, example_title(split, index, state)),
            f"examples/{split.name}_{number}.png",
        )
    if len(chosen):
        with tracking.artifact_file(f"examples/{split.name}.npz") as file:
            arrays = {f"{name}_{number}": part for name, parts in stored.items() for number, part in enumerate(parts)}
            names, digests = (np.array([each[index] for index in chosen]) for each in (split.names, split.digests))
            np.savez_compressed(file, allow_pickle=False, name=names, digest=digests, **arrays)
    errors = scores.image_ece()
    for number, index in enumerate(worst_first[: min(WORST, count)]):
        rank = "highest" if number == 0 else f"number {number + 1} by"
        title = f"{example_title(split, index, state)}\n{rank} ECE of a single image: {errors[index]:.4f}"
        shown = predicted(model, split, int(index), device)
        tracking.log_figure(plots.example(*shown, split.labels, title), f"examples/{split.name}_worst_{number}.png")


def _group_record(group: Group, found: GroupReliability) -> dict[str, object]:
    bins = found.bins
    return {
        "kind": group.kind, "name": group.name, "pixels": int(bins.count.sum()),
        "ece": bins.ece(), "ece_interval": found.ece,
        "accuracy_minus_confidence": bins.signed_gap(), "accuracy_minus_confidence_interval": found.confidence_gap,
        "count": bins.count.tolist(), "confidence": bins.confidence.tolist(), "accuracy": bins.accuracy.tolist(),
    }  # fmt: skip
