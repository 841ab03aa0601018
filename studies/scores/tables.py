"""Tables of scores: Markdown for a run's description, CSV for artifacts."""

from collections.abc import Mapping, Sequence

import numpy as np

from segmentation.metrics import HEADLINE, METRICS
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.groups import Group, GroupReliability
from segmentation.scoring.scores import Scores
from studies.base.markdown import escaped
from studies.base.tables import csv_text, table


def key_metrics(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return the headline metrics with their intervals in one line."""
    return " · ".join(f"{METRICS[name].label} {metrics[name]:.4f} {intervals[name]}" for name in HEADLINE)


def metric_table(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return all metrics with intervals and meaning, as Markdown."""
    rows = [[name, f"{metrics[name]:.4f}", str(intervals[name]), metric.meaning] for name, metric in METRICS.items()]
    return "\n".join(table(["metric", "value", "95 % over images", "meaning"], rows))


def class_table(scores: Scores, groups: Mapping[Group, GroupReliability]) -> str:
    """Return IoU, accuracy and calibration of each class, as Markdown."""
    rows = []
    by_class = zip(scores.labels.names, scores.confusion.iou(), scores.confusion.class_accuracy(), strict=True)
    for name, iou, accuracy in by_class:
        true, predicted = (groups[Group(kind, name)] for kind in ("true class", "predicted class"))
        rows.append([escaped(name), f"{iou:.3f}", f"{accuracy:.3f}", _gap(true), _gap(predicted)])
    header = ["class", "IoU", "accuracy", "accuracy - confidence where it is true", "where it is predicted"]
    return "\n".join(table(header, rows))


def region_table(groups: Mapping[Group, GroupReliability]) -> str:
    """Return the calibration near boundaries, in the interior, in fore- and background, as Markdown."""
    rows = [
        [group.name, f"{found.bins.ece():.4f} {found.ece}", _gap(found)]
        for group, found in groups.items()
        if group.kind in ("region", "ground")
    ]
    return "\n".join(table(["part", "ECE", "accuracy - confidence"], rows))


def images_csv(scores: Scores, names: Sequence[str], order: np.ndarray) -> str:
    """Return the metrics of each image, as CSV, in this order of indices."""
    rows: list[list[object]] = []
    errors = scores.image_ece()
    for block in scores.blocks():
        count, correct, confidence = (block[name].sum(-1) for name in ("count", "correct", "confidence_sum"))
        for row in range(len(count)):
            index, pixels = len(rows), int(count[row])
            sums = (
                correct[row], confidence[row], correct[row] - confidence[row], block["negative_log_likelihood"][row],
            )  # fmt: skip
            means = [f"{value / pixels:.6f}" if pixels else "" for value in sums]
            rows.append([names[index], pixels, f"{errors[index]:.6f}" if pixels else "", *means])
    header = ["image", "pixels", "ece", "pixel_accuracy", "confidence", "accuracy_minus_confidence", "loss"]
    return csv_text(header, (rows[index] for index in order))


def confusion_csv(scores: Scores) -> str:
    """Return the confusion matrix in pixels, as CSV."""
    counts = zip(scores.labels.names, scores.confusion.counts.tolist(), strict=True)
    return csv_text(["true class \\ predicted class", *scores.labels.names], ([name, *row] for name, row in counts))


def _gap(found: GroupReliability) -> str:
    return f"{found.bins.signed_gap():+.3f} {found.confidence_gap}" if found.bins.count.sum() else "no pixels"
