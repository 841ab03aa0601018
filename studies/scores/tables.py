"""Tables of scores: Markdown for a run's description, CSV for artifacts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segmentation.errors import counted
from segmentation.metrics import HEADLINE, METRICS
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.confusion import mean_of_defined
from segmentation.scoring.groups import Group, GroupReliability
from segmentation.scoring.scores import Scores
from studies.base.markdown import escaped
from studies.base.tables import csv_text, table

CLASS_ROWS = 12
"""Most classes in the table of a summary."""
CLASS_HEADER = ("class", "IoU", "accuracy", "pixels")


def key_metrics(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return the headline metrics with their intervals in one line."""
    return " · ".join(f"{METRICS[name].label} {metrics[name]:.4f} {intervals[name]}" for name in HEADLINE)


def metric_table(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return all metrics with intervals and meaning, as Markdown."""
    rows = [[name, f"{metrics[name]:.4f}", str(intervals[name]), metric.meaning] for name, metric in METRICS.items()]
    return "\n".join(table(["metric", "value", "95 % over images", "meaning"], rows))


class ClassScore(NamedTuple):
    """Scores of one class."""

    name: str
    pixels: int
    """Labelled pixels of the class."""
    values: dict[str, float]
    """Every metric of `definitions.ByClass`; NaN where the class has no value."""
    intervals: dict[str, Interval]
    """95 % intervals of the same metrics over images."""

    def record(self) -> dict[str, object]:
        """Return the scores as JSON values."""
        return {"name": self.name, "pixels": self.pixels} | self.values | {"intervals": self.intervals}


def class_scores(scores: Scores) -> list[ClassScore]:
    """Return the scores of each class, in the order of the classes."""
    values, intervals = scores.by_class()._asdict(), scores.class_intervals()
    pixels = scores.confusion.counts.sum(1).tolist()
    return [
        ClassScore(
            name, pixels[index],
            {metric: float(of_classes[index]) for metric, of_classes in values.items()},
            {metric: of_classes[index] for metric, of_classes in intervals.items()},
        )
        for index, name in enumerate(scores.labels.names)
    ]  # fmt: skip


def classes_csv(classes: Sequence[ClassScore]) -> str:
    """Return every metric of each class with its interval, as CSV; empty where a class has no value."""
    names = list(classes[0].values)
    header = ["class", "pixels", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    rows = [
        [each.name, each.pixels, *(
            f"{number:.6f}" if math.isfinite(number) else ""
            for name in names for number in (each.values[name], *each.intervals[name])
        )]
        for each in classes
    ]  # fmt: skip
    return csv_text(header, rows)


def overlap_table(classes: Sequence[ClassScore]) -> str:
    """Return Dice, precision, recall and boundary IoU of each class with their intervals, as Markdown."""
    names = [name for name in classes[0].values if name not in ("iou", "accuracy")]
    rows = [
        [escaped(each.name), *(_with_interval(each.values[name], each.intervals[name]) for name in names)]
        for each in classes
    ]
    header = ["class", *(METRICS[f"mean_{name}"].label.removeprefix("mean ") for name in names)]
    return "\n".join(table(header, rows))


def class_table(classes: Sequence[ClassScore]) -> str:
    """Return IoU, accuracy and pixels of the classes with the most pixels, as Markdown."""
    rows, rest = _class_rows(classes)
    lines = table(CLASS_HEADER, ([escaped(name), *cells] for name, *cells in rows))
    return "\n".join([*lines, *([f"\n{rest}"] if rest else [])])


def class_lines(classes: Sequence[ClassScore]) -> Iterator[str]:
    """Yield the lines of the same table, aligned for a terminal."""
    rows, rest = _class_rows(classes)
    width = max(len(row[0]) for row in (CLASS_HEADER, *rows))
    for name, iou, accuracy, pixels in (CLASS_HEADER, *rows):
        yield f"  {name:{width}}  {iou:>6}  {accuracy:>8}  {pixels:>13}"
    if rest:
        yield f"  {rest}"


def _class_rows(classes: Sequence[ClassScore]) -> tuple[list[tuple[str, str, str, str]], str]:
    """Return the rows of the table of classes, and a line that counts the others."""
    known = [each for each in classes if each.pixels or math.isfinite(each.values["iou"])]
    chosen = sorted(known, key=lambda each: -each.pixels)[:CLASS_ROWS]
    rows = [
        (each.name, _three(each.values["iou"]), _three(each.values["accuracy"]), f"{each.pixels:,}")
        for each in known
        if each in chosen
    ]
    others = [each for each in known if each not in chosen]
    if not others:
        return rows, ""
    mean = float(mean_of_defined(np.array([each.values["iou"] for each in others])))
    pixels = sum(each.pixels for each in others)
    number = counted(len(others), "class", "classes")
    return rows, f"and {number} with fewer pixels: mean IoU {_three(mean)}, {pixels:,} pixels"


def _three(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _with_interval(value: float, ends: Interval) -> str:
    return f"{value:.3f} [{ends.low:.3f}, {ends.high:.3f}]" if math.isfinite(value) else "–"


def class_calibration_table(scores: Scores, groups: Mapping[Group, GroupReliability]) -> str:
    """Return the calibration of each class, as Markdown."""
    rows = [
        [escaped(name), *(_gap(groups[Group(kind, name)]) for kind in ("true class", "predicted class"))]
        for name in scores.labels.names
    ]
    return "\n".join(table(["class", "accuracy minus confidence where it is true", "where it is predicted"], rows))


def region_table(groups: Mapping[Group, GroupReliability]) -> str:
    """Return the calibration near boundaries, in the interior, in fore- and background, as Markdown."""
    rows = [
        [group.name, f"{found.bins.ece():.4f} {found.ece}", _gap(found)]
        for group, found in groups.items()
        if group.kind in ("region", "ground")
    ]
    return "\n".join(table(["part", "ECE", "accuracy minus confidence"], rows))


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
