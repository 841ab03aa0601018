"""What a run's confusion matrix shows: metrics of each class, and whether the model has learned some segmentation."""

import csv
import io
from typing import NamedTuple

import numpy as np

from segmentation.errors import InputError
from segmentation.scoring.confusion import iou, ratios
from studies.report.content import ReportedRun
from studies.scores.wording import PREDICTIONS, count_warnings, why_nothing_learned

SIGNS = ("predicts only", "not above that of predicting")
"""Parts of the warnings that a model has learned no segmentation."""


class Counts(NamedTuple):
    """A confusion matrix in pixels."""

    names: list[str]
    """Classes."""
    pixels: np.ndarray
    """`(C, C)` int64: row true class, column predicted class."""

    def iou(self) -> np.ndarray:
        """Intersection over union of each class, `(C,)`; NaN for a class neither labelled nor predicted."""
        return iou(self.pixels.diagonal(), self.pixels.sum(1), self.pixels.sum(0))

    def accuracy(self) -> np.ndarray:
        """Fraction of each class's pixels that are predicted correctly, `(C,)`; NaN for a class without pixels."""
        return ratios(self.pixels.diagonal(), self.pixels.sum(1))


def counts_of(run: ReportedRun, split: str) -> Counts | None:
    """Return the confusion matrix that a run has stored; None if it has none.

    Raises:
        InputError: the file is damaged.
    """
    path = f"confusion/{split}.csv"
    if path not in run.files:
        return None
    try:
        (_, *names), *rows = list(csv.reader(io.StringIO(run.files[path].decode(), newline="")))
        pixels = np.array([[int(cell) for cell in row[1:]] for row in rows], np.int64)
        if [row[0] for row in rows] != names or pixels.shape != (len(names), len(names)) or (pixels < 0).any():
            raise ValueError(f"it has {len(rows)} rows for {len(names)} classes")
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{path} of run {run.run_id} ({run.name}) is damaged: {error}") from error
    return Counts(names, pixels)


def warnings_of(run: ReportedRun, split: str) -> list[str]:
    """Return the warnings about a run's predictions: those it has stored, or those of its counts."""
    stored = (run.json(f"reliability/{split}.json") or {}).get("warnings")
    if isinstance(stored, list):
        return [str(warning) for warning in stored]
    counts = counts_of(run, split)  # earlier versions stored no warnings
    if counts is not None:
        return count_warnings(counts.pixels, counts.names)
    return [run.tags[PREDICTIONS]] if PREDICTIONS in run.tags else []


def learned_nothing(run: ReportedRun, split: str) -> str:
    """Return why a run's model has learned no segmentation, as the end of a sentence; empty if nothing shows that."""
    counts = counts_of(run, split)
    if counts is not None:
        return why_nothing_learned(counts.pixels, counts.names)
    found = next((text for text in warnings_of(run, split) if any(sign in text for sign in SIGNS)), "")
    return found.removeprefix("the model ")
