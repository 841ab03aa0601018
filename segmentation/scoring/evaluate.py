"""One pass over a split: everything that is measured on it, exactly."""

import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.io.npz import stored_arrays
from segmentation.metrics import METRICS
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import Interval, interval, resampled
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.calibration_error import coarse
from segmentation.scoring.confusion import Confusion, iou, mean_over_split, ratios
from segmentation.scoring.counting import columns, count_pixels
from segmentation.scoring.groups import Group, GroupReliability, group_metrics, grouped
from segmentation.scoring.image_table import ImageTable
from segmentation.scoring.reliability import Bins, Reliability
from segmentation.system.full_precision import full_precision

KINDS_OF_BINS = ("", "log_odds_", "boundary_", "true_", "predicted_", "one_vs_rest_")
"""How the names of an image's histograms begin."""
LATER_COLUMNS = {f"log_odds_{name}" for name in Bins.NAMES}
"""Columns that files of earlier versions lack; the metrics that need them are then NaN."""
BOUNDARY_WIDTH = 3
"""Rows and columns on either side of a boundary that belong to its band."""


class ClassValues(NamedTuple):
    """What means over classes average, of the whole split; `(C,)` each, NaN for a class that is left out."""

    iou: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, sums: Mapping[str, np.ndarray]) -> "ClassValues":
        """Those of sums over images, `(..., C)` each."""
        return cls(
            iou(sums["intersection"], sums["labelled"], sums["predicted"]),
            ratios(sums["intersection"], sums["labelled"]),
        )

    def within(self, classes: "ClassSets") -> "ClassValues":
        """Those of some classes alone."""
        return ClassValues(*(np.where(chosen, values, np.nan) for values, chosen in zip(self, classes, strict=True)))


class ClassSets(NamedTuple):
    """The classes that means are taken over; `(C,)` bool each."""

    iou: np.ndarray
    accuracy: np.ndarray


def figures(sums: Mapping[str, np.ndarray], of_split: ClassValues, draws: int = 1) -> dict[str, np.ndarray]:
    """Every metric of `segmentation.metrics.METRICS` from sums over images.

    Args:
        sums: arrays `(..., K)` by the names of `Scores.sums`, summed over whichever images.
        of_split: each class's IoU and accuracy in the whole split, which say over which classes means are taken.
        draws: how many times chance has had its way: 1 for a split, 2 for a resample of it.

    Returns:
        Arrays `(...)`; NaN where there is no non-void pixel.
    """
    bins, values = (sums["count"], sums["gap"]), ClassValues.of(sums)
    one_vs_rest = sums["class_count"], sums["class_gap"]
    image_ece = ratios(sums["image_ece"], sums["images"])
    spread = np.maximum(ratios(sums["image_ece_squared"], sums["images"]) - image_ece**2, 0)
    debiased_ece, debiased_rmsce = calibration.debiased(*bins, sums["moments"], draws)
    reliability, resolution, uncertainty = calibration.brier_decomposition(*one_vs_rest, sums["class_positive"])
    found = {
        "loss": ratios(sums["negative_log_likelihood"], sums["pixels"]),
        "pixel_accuracy": ratios(sums["correct"], sums["pixels"]),
        "mean_class_accuracy": mean_over_split(values.accuracy, of_split.accuracy),
        "mean_iou": mean_over_split(values.iou, of_split.iou),
        "ece": calibration.ece(*bins),
        "confidence_gap": calibration.confidence_gap(*bins),
        "debiased_ece": debiased_ece,
        "adaptive_ece": calibration.adaptive_ece(sums["log_odds_count"], sums["log_odds_gap"]),
        "classwise_ece": calibration.classwise_ece(*one_vs_rest),
        "image_ece": image_ece,
        "image_ece_spread": np.sqrt(spread * ratios(sums["images"], np.maximum(sums["images"] - 1, 1))),
        "rmsce": calibration.rmsce(*bins),
        "debiased_rmsce": debiased_rmsce,
        "mce": calibration.mce(*bins),
        "brier": ratios(sums["brier"], sums["pixels"]),
        "brier_reliability": reliability,
        "brier_resolution": resolution,
        "brier_uncertainty": uncertainty,
        "aurc": calibration.area_under_risk_coverage(sums["log_odds_count"], sums["log_odds_correct"]),
    }
    assert found.keys() == METRICS.keys()
    return found


class Scores:
    """What has been measured on a split so far, image by image."""

    def __init__(self, labels: Classes, boundary_width: int = BOUNDARY_WIDTH) -> None:
        self.labels = labels
        self.boundary_width = boundary_width
        self.reliability = Reliability()
        self.confusion = Confusion(len(labels))
        self._table = ImageTable(columns(len(labels)))

    def __len__(self) -> int:
        return len(self._table)

    @property
    def tables(self) -> tuple[ImageTable, ...]:
        """Where it is kept; each holds the same images."""
        return self._table, self.reliability.table, self.confusion.table

    def update(self, logits: torch.Tensor, masks: torch.Tensor, images: Sequence[int] | None = None) -> None:
        """Add a batch.

        Args:
            logits: `(B, C, H, W)`, never probabilities.
            masks: `(B, H, W)` class indices, 255 is void.
            images: number of each image, by which one that comes again is left out; None counts all, see `ImageTable`.
        """
        counted = count_pixels(logits, masks, boundary_band(masks, self.boundary_width))
        for table in self.tables:
            table.append({name: counted[name] for name in table.totals}, images)

    def merge(self, other: "Scores") -> None:
        """Add the images of another part of the split; an image that both have counts once."""
        self.reliability.merge(other.reliability)
        self.confusion.merge(other.confusion)
        self._table.extend(other._table)

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """All that was measured, in the order of the images' numbers, some images at a time."""
        for parts in zip(*(table.blocks() for table in self.tables), strict=True):
            yield {name: values for part in parts for name, values in part.items()}

    def metrics(self, classes: ClassSets | None = None) -> dict[str, float]:
        """Every metric of `segmentation.metrics.METRICS` by name; NaN where there is no non-void pixel.

        Args:
            classes: means over classes are taken over these; None takes all that have a value. See `common_classes`.
        """
        pooled = self._pooled()
        return {name: float(value) for name, value in figures(pooled, _of_split(pooled, classes)).items()}

    def resampled(self, classes: ClassSets | None = None) -> dict[str, np.ndarray]:
        """Every metric over 10,000 resamples of the images, and `noise_floor`: the ECE that chance alone gives.

        Scores of the same images, in any other scoring, are resampled alike, so that two can be compared in pairs.
        Means over classes are over one set of classes in every resample, see `mean_over_split`.

        Args:
            classes: that set, as of `metrics`.
        """
        pooled = self._pooled()
        split, of_split = (pooled["count"], pooled["gap"]), _of_split(pooled, classes)

        def of_resamples(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            chance = calibration.chance_ece(sums["count"], sums["gap"], *split)
            return figures(sums, of_split, draws=2) | {"noise_floor": chance}

        return resampled(of_resamples, map(_additive, self.blocks()), len(self))

    def intervals(self) -> dict[str, Interval]:
        """95 % interval over images of every metric."""
        resampled, metrics = self.resampled(), self.metrics()
        return {name: interval(resampled[name], metrics[name]) for name in metrics if name in resampled}

    def ece_interval(self, resamples: int) -> Interval:
        """95 % interval over images of the ECE alone, which is quicker."""
        found = resampled(
            lambda sums: {"ece": calibration.ece(sums["count"], sums["gap"])},
            ({"count": count, "gap": gap} for count, gap in self._image_bins()),
            len(self),
            resamples,
        )
        return interval(found["ece"], self.reliability.ece()) if found else Interval(np.nan, np.nan)

    def accuracy_band(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval over images of each bin's accuracy, `(10,)` each; NaN for an empty bin."""
        found = resampled(
            lambda sums: {"accuracy": ratios(sums["correct"], sums["count"])},
            ({name: coarse(block[name]) for name in ("correct", "count")} for block in self.reliability.table.blocks()),
            len(self),
        )
        accuracy = self.reliability.bins().accuracy
        values = _resampled_columns(found, "accuracy", len(accuracy))
        ends = [interval(each, value) for each, value in zip(values, accuracy, strict=True)]
        return np.array([end.low for end in ends]), np.array([end.high for end in ends])

    def image_ece(self) -> np.ndarray:
        """`(N,)` ECE of each image by itself, in the order of the images' numbers; NaN for one that is all void."""
        return np.concatenate([np.zeros(0), *(calibration.ece(*bins) for bins in self._image_bins())])

    def groups(self) -> dict[Group, GroupReliability]:
        """Reliability near boundaries and away from them, of foreground and background, and by class."""
        names = [f"{prefix}{name}" for prefix in ("", "boundary_", "true_", "predicted_") for name in Bins.NAMES]
        blocks = ({name: coarse(block[name]) for name in names} for block in self.blocks())
        found = resampled(lambda sums: group_metrics(sums, self.labels), blocks, len(self))
        groups = grouped(self._table.totals | self.reliability.table.totals, self.labels)
        ece, gap = (_resampled_columns(found, name, len(groups)) for name in ("ece", "confidence_gap"))
        return {
            group: GroupReliability(bins, interval(ece[place], bins.ece()), interval(gap[place], bins.signed_gap()))
            for place, (group, bins) in enumerate(groups.items())
        }

    def log_odds_bins(self) -> Bins:
        """All pixels of all images in bins of the confidence's log-odds, see `segmentation.scoring.log_odds`."""
        return Bins(*(self._table.totals[f"log_odds_{name}"] for name in Bins.NAMES))

    def class_iou(self) -> dict[str, float]:
        """Intersection over union by class name, without the classes neither present nor predicted."""
        iou = self.confusion.iou()
        return {name: float(value) for name, value in zip(self.labels.names, iou, strict=True) if value == value}

    def save(self, file: Path, about_images: Mapping[str, np.ndarray]) -> None:
        """Write all that was measured on each image as an `.npz` that loads without pickle.

        Args:
            file: what to write.
            about_images: further arrays `(N,)`, such as the images' names.
        """
        shapes = self._nothing()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
            for name, values in (dict(about_images) | {"image": self._table.images}).items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.asarray(values), allow_pickle=False)
            for name, values in shapes.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False,
                        "shape": (len(self), *values.shape[1:]),
                    }  # fmt: skip
                    np.lib.format.write_array_header_1_0(stream, header)
                    for block in self.blocks():
                        stream.write(np.ascontiguousarray(block[name]).tobytes())

    def _image_bins(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Count and gap of each image's 10 bins, `(b, 10)` each, some images at a time."""
        for block in self.reliability.table.blocks():
            yield coarse(block["count"]), coarse(block["correct"] - block["confidence_sum"])

    def _pooled(self) -> dict[str, np.ndarray]:
        """Sum over all images of what `figures` adds up."""
        sums: dict[str, np.ndarray] = {}
        for block in map(_additive, self.blocks()):
            sums = {name: values.sum(0) + sums.get(name, 0) for name, values in block.items()}
        return sums or {name: values.sum(0) for name, values in _additive(self._nothing()).items()}

    def _nothing(self) -> dict[str, np.ndarray]:
        return {name: table.column_of_none(name) for table in self.tables for name in table.totals}


def load_scores(
    file: Path, labels: Classes, boundary_width: int = BOUNDARY_WIDTH, chosen: Sequence[int] | None = None
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Read what `Scores.save` has written.

    Args:
        file: what to read.
        labels: the classes.
        boundary_width: as it was measured with.
        chosen: places of the images to take, in their new order; None takes all.

    Returns:
        The scores, whose images keep their numbers, or are numbered from 0 if they were `chosen`; and the arrays about
        these images by name.

    Raises:
        InputError: the file is not there, damaged, of another version, or does not hold scores of these classes.
    """
    scores = Scores(labels, boundary_width)
    columns = {name: total for table in scores.tables for name, total in table.totals.items()}
    with stored_arrays(file) as stored:
        if "image" not in stored.known or len(stored.known["image"].shape) != 1:
            raise InputError(f"{file} is damaged or of another version: it does not number its images")
        count = stored.known["image"].shape[0]
        missing = columns.keys() - stored.known.keys()
        if missing & LATER_COLUMNS:
            missing |= LATER_COLUMNS  # all of them or none
        if missing - LATER_COLUMNS:
            raise InputError(
                f"{file} was written by another version of this program: it holds no {min(missing - LATER_COLUMNS)}; "
                f"score the model again with the entry point evaluate"
            )
        for name in stored.known.keys() - missing:
            expected = columns[name].shape if name in columns else stored.known[name].shape[1:]
            if stored.known[name].shape != (count, *expected):
                raise InputError(
                    f"{file} holds no {name} of {count} images with {len(labels)} classes; it is damaged, or of "
                    f"another data set"
                )
        arrays = stored.read(stored.known.keys() - missing)
        arrays |= {name: np.zeros((count, *columns[name].shape), columns[name].dtype) for name in missing}
        _check_counts(arrays, columns, file, missing)
        arrays = {name: values if chosen is None else values[list(chosen)] for name, values in arrays.items()}
    numbers = arrays.pop("image")
    images = numbers.tolist() if chosen is None else range(len(numbers))
    for table in scores.tables:
        table.append({name: arrays.pop(name) for name in table.totals}, images)
    return scores, arrays


def _check_counts(
    arrays: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray], file: Path, missing: Collection[str]
) -> None:
    """Raise an `InputError` for figures that nobody can have counted; those of `missing` columns are 0."""
    pixels, numbers = arrays["pixels"], arrays["image"]
    for name in columns:
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise InputError(
                f"{file} holds a {name} that is NaN or infinite: the model that was scored has diverged, or the file "
                f"is damaged"
            )
    believable = (
        all(arrays[name].dtype.kind in ("f" if total.dtype.kind == "f" else "iu") for name, total in columns.items())
        and all((arrays[name] >= 0).all() for name in columns)
        and (pixels < 2**32).all()
        and all((arrays[f"{kind}correct"] <= arrays[f"{kind}count"]).all() for kind in KINDS_OF_BINS)
        and (arrays["count"].sum(1) == pixels).all()
        and ("log_odds_count" in missing or (arrays["log_odds_count"].sum(1) == pixels).all())
        and (arrays["confusion"].sum((1, 2)) == pixels).all()
        and numbers.dtype.kind in "iu"
        and len(np.unique(numbers)) == len(numbers)
    )
    if not believable:
        raise InputError(f"{file} is damaged: its counts contradict each other")


def _of_split(pooled: Mapping[str, np.ndarray], classes: ClassSets | None) -> ClassValues:
    values = ClassValues.of(pooled)
    return values if classes is None else values.within(classes)


def common_classes(several: Iterable[Scores]) -> ClassSets:
    """The classes over which means can be compared: those that have a value in each of several scorings.

    A class that no pixel is labelled with has an IoU, 0, only where it was predicted, and then the mean IoU of one
    model would be over more classes than that of another.
    """
    values = [ClassValues.of(scores._pooled()) for scores in several]
    iou, accuracy = (np.isfinite(parts).all(0) for parts in zip(*values, strict=True))
    return ClassSets(iou, accuracy)


def _resampled_columns(found: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Resamples `(R, count)` of several values, `(count, R)`; none without images."""
    return found[name].T if found else np.empty((count, 0))


def _additive(block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `figures` adds up over images, `(b, ...)`, from what was measured on each."""
    bins = coarse(block["count"].astype(np.int64)), coarse(block["correct"] - block["confidence_sum"])
    image_ece = calibration.ece(*bins)
    confusion = block["confusion"].astype(np.int64)
    return {
        "images": np.isfinite(image_ece).astype(np.int64),
        "image_ece": np.nan_to_num(image_ece),
        "image_ece_squared": np.nan_to_num(image_ece) ** 2,
        "pixels": block["pixels"].astype(np.int64),
        "negative_log_likelihood": block["negative_log_likelihood"],
        "brier": block["brier"],
        "correct": block["correct"].sum(1, np.int64),
        "count": bins[0],
        "gap": bins[1],
        "log_odds_count": block["log_odds_count"].astype(np.int64),
        "log_odds_gap": block["log_odds_correct"] - block["log_odds_confidence_sum"],
        "log_odds_correct": block["log_odds_correct"].astype(np.int64),
        "moments": calibration.moments(*bins),
        "intersection": confusion.diagonal(axis1=1, axis2=2),
        "labelled": confusion.sum(2),
        "predicted": confusion.sum(1),
        "class_count": block["one_vs_rest_count"].astype(np.int64),
        "class_gap": block["one_vs_rest_correct"] - block["one_vs_rest_confidence_sum"],
        "class_positive": block["one_vs_rest_correct"].astype(np.int64),
    }


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, in float32 proper; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode(), full_precision():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def score(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    labels: Classes,
    boundary_width: int = BOUNDARY_WIDTH,
) -> Scores:
    """Score a network, in evaluation mode and float32, whatever it was trained in.

    Args:
        network: from images to logits `(B, C, h, w)`.
        batches: images `(B, 3, h, w)` uint8 and masks `(B, H, W)`; where their sizes differ, the logits are resized to
            the masks' size, bilinearly.
        labels: the classes.
        boundary_width: pixels on either side of a boundary that are told apart, at the masks' size.
    """
    scores = Scores(labels, boundary_width)
    with evaluating(network):
        for images, masks in batches:
            scores.update(at_size_of(masks, network(images)), masks)
    return scores


def at_size_of(masks: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Logits `(B, C, h, w)` resized to the size of masks `(B, H, W)`, as torchvision's networks resize their own."""
    if logits.shape[2:] == masks.shape[1:]:
        return logits
    return F.interpolate(logits.float(), masks.shape[1:], mode="bilinear", align_corners=False)
