"""`Scores`: the counts of every image of a split, the metrics that follow from them, and their `.npz` file."""

import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.io.npz import stored_arrays
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring import definitions
from segmentation.scoring.bootstrap import Interval, interval, resampled
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.calibration_error import coarse
from segmentation.scoring.confusion import Confusion, ratios
from segmentation.scoring.definitions import ByClass, sums_of_images
from segmentation.scoring.groups import Group, GroupReliability, group_metrics, grouped
from segmentation.scoring.image_table import ImageTable
from segmentation.scoring.reliability import Bins, Reliability
from segmentation.scoring.softmax_counts import LATER_COLUMNS, columns, count_pixels

BOUNDARY_WIDTH = 3
"""Rows and columns on either side of a boundary that belong to its band."""


class Scores:
    """Counts of each image of a split, filled batch by batch; kept on disk, so that memory does not grow."""

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
        """The tables that hold the counts; all have the same images."""
        return self._table, self.reliability.table, self.confusion.table

    def update(self, logits: torch.Tensor, masks: torch.Tensor, images: Sequence[int] | None = None) -> None:
        """Add a batch.

        Args:
            logits: `(B, C, h, w)`, not probabilities; resized bilinearly to the size of the masks.
            masks: `(B, H, W)` class indices, 255 is void.
            images: number of each image, see `ImageTable`: an image is counted once. None counts all images.
        """
        counted = count_pixels(logits, masks, boundary_band(masks, self.boundary_width))
        for table in self.tables:
            table.append({name: counted[name] for name in table.totals}, images)

    def merge(self, other: "Scores") -> None:
        """Add the images of another part of the split; an image in both parts counts once."""
        self.reliability.merge(other.reliability)
        self.confusion.merge(other.confusion)
        self._table.extend(other._table)

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield all columns in the order of the images' numbers, a block of images at a time."""
        for parts in zip(*(table.blocks() for table in self.tables), strict=True):
            yield {name: values for part in parts for name, values in part.items()}

    def metrics(self, classes: ByClass | None = None) -> dict[str, float]:
        """Every metric of `segmentation.metrics.METRICS` by name; NaN where there is no non-void pixel.

        Args:
            classes: the classes over which means are taken, see `common_classes`; None takes all that have a value.
        """
        pooled = self._pooled()
        return {name: float(value) for name, value in definitions.metrics(pooled, _of_split(pooled, classes)).items()}

    def resampled(self, classes: ByClass | None = None, resamples: int | None = None) -> dict[str, np.ndarray]:
        """Every metric of resamples of the images, and `noise_floor`: the ECE of a perfectly calibrated model.

        Two `Scores` of the same images use the same resamples, which makes their differences paired. Means over classes
        are over the same classes in every resample, see `mean_over_split`.

        Args:
            classes: as for `metrics`.
            resamples: number of resamples; None for `bootstrap.RESAMPLES`.
        """
        pooled = self._pooled()
        split, of_split = (pooled["count"], pooled["gap"]), _of_split(pooled, classes)

        def of_resamples(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            noise = calibration.chance_ece(sums["count"], sums["gap"], *split)
            return definitions.metrics(sums, of_split, samplings=2) | {"noise_floor": noise}

        return resampled(of_resamples, map(sums_of_images, self.blocks()), len(self), resamples)

    def intervals(self, resamples: int | None = None) -> dict[str, Interval]:
        """95 % interval over images of every metric."""
        resampled, metrics = self.resampled(resamples=resamples), self.metrics()
        return {name: interval(resampled[name], metrics[name]) for name in metrics if name in resampled}

    def ece_interval(self, resamples: int) -> Interval:
        """95 % interval over images of the ECE alone, which is faster than `intervals`."""
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
        """`(N,)` ECE of each image, in the order of the images' numbers; NaN for an image that is all void."""
        return np.concatenate([np.zeros(0), *(calibration.ece(*bins) for bins in self._image_bins())])

    def groups(self) -> dict[Group, GroupReliability]:
        """Reliability near boundaries and in the interior, of foreground and background, and of each class."""
        names = [f"{prefix}{name}" for prefix in ("", "boundary_", "true_", "predicted_") for name in Bins.NAMES]
        blocks = ({name: coarse(block[name]) for name in names} for block in self.blocks())
        found = resampled(lambda sums: group_metrics(sums, self.labels), blocks, len(self))
        groups = grouped(self._table.totals | self.reliability.table.totals, self.labels)
        ece, gap = (_resampled_columns(found, name, len(groups)) for name in ("ece", "confidence_gap"))
        return {
            group: GroupReliability(bins, interval(ece[index], bins.ece()), interval(gap[index], bins.signed_gap()))
            for index, (group, bins) in enumerate(groups.items())
        }

    def log_odds_bins(self) -> Bins:
        """All pixels in bins of the confidence's log-odds, see `segmentation.scoring.log_odds`."""
        return Bins(*(self._table.totals[f"log_odds_{name}"] for name in Bins.NAMES))

    def by_class(self) -> ByClass:
        """Every metric that has a value for each class, `(C,)` each; NaN for a class without a value."""
        return ByClass.of(self._pooled())

    def class_intervals(self) -> dict[str, list[Interval]]:
        """95 % interval over images of every metric of each class, by metric; NaN for a class without a value."""
        columns = "intersection", "labelled", "predicted", "contour_intersection", "contour_union"
        blocks = ({name: sums[name] for name in columns} for sums in map(sums_of_images, self.blocks()))
        found = resampled(lambda sums: ByClass.of(sums)._asdict(), blocks, len(self))
        return {
            name: list(map(interval, _resampled_columns(found, name, len(self.labels)), values.tolist()))
            for name, values in self.by_class()._asdict().items()
        }

    def class_iou(self) -> dict[str, float]:
        """Intersection over union by class name, without classes that are neither labelled nor predicted."""
        iou = self.confusion.iou()
        return {name: float(value) for name, value in zip(self.labels.names, iou, strict=True) if value == value}

    def save(self, file: Path, about_images: Mapping[str, np.ndarray]) -> None:
        """Write the counts of each image as an `.npz` file that loads without pickle.

        Args:
            file: the file to write.
            about_images: further arrays `(N,)`, such as the names of the images.
        """
        shapes = self._empty()
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
        """Yield count and gap of each image's 10 bins, `(b, 10)` each, a block of images at a time."""
        for block in self.reliability.table.blocks():
            yield coarse(block["count"]), coarse(block["correct"] - block["confidence_sum"])

    def _pooled(self) -> dict[str, np.ndarray]:
        """Arrays of `sums_of_images` added up over all images."""
        sums: dict[str, np.ndarray] = {}
        for block in map(sums_of_images, self.blocks()):
            sums = {name: values.sum(0) + sums.get(name, 0) for name, values in block.items()}
        return sums or {name: values.sum(0) for name, values in sums_of_images(self._empty()).items()}

    def _empty(self) -> dict[str, np.ndarray]:
        """Columns of no images."""
        return {name: table.column_of_none(name) for table in self.tables for name in table.totals}


def load_scores(
    file: Path, labels: Classes, boundary_width: int = BOUNDARY_WIDTH, chosen: Sequence[int] | None = None
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Read a file that `Scores.save` wrote.

    Args:
        file: the file to read.
        labels: the classes.
        boundary_width: the width that the scores were counted with.
        chosen: indices of the images to read, in their new order; None reads all.

    Returns:
        The scores, and the further arrays about the images by name. Images keep their numbers; `chosen` images are
        numbered from 0.

    Raises:
        InputError: the file is missing, damaged, of another version, or of other classes.
    """
    scores = Scores(labels, boundary_width)
    columns = {name: total for table in scores.tables for name, total in table.totals.items()}
    with stored_arrays(file) as stored:
        if "image" not in stored.known or len(stored.known["image"].shape) != 1:
            raise InputError(f"{file} is damaged or of another version: it has no image numbers")
        count = stored.known["image"].shape[0]
        missing = columns.keys() - stored.known.keys()
        for together in LATER_COLUMNS:
            if missing & together:
                missing |= together  # use all of them or none
        required = missing.difference(*LATER_COLUMNS)
        if required:
            raise InputError(
                f"{file} was written by another version of this program: it holds no {min(required)}; "
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
    """Raise an `InputError` for impossible counts; those of `missing` columns are 0."""
    pixels, numbers = arrays["pixels"], arrays["image"]
    for name in columns:
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise InputError(
                f"{file} holds a {name} that is NaN or infinite: the model that was scored has diverged, or the file "
                f"is damaged"
            )
    correct = [name for name in columns if name.endswith("correct")]
    possible = (
        all(arrays[name].dtype.kind in ("f" if total.dtype.kind == "f" else "iu") for name, total in columns.items())
        and all((arrays[name] >= 0).all() for name in columns)
        and (pixels < 2**32).all()
        and all((arrays[name] <= arrays[f"{name.removesuffix('correct')}count"]).all() for name in correct)
        and (arrays["count"].sum(1) == pixels).all()
        and ("log_odds_count" in missing or (arrays["log_odds_count"].sum(1) == pixels).all())
        and (arrays["confusion"].sum((1, 2)) == pixels).all()
        and (arrays["contour_intersection"] <= arrays["contour_union"]).all()
        and (arrays["contour_union"].sum(1) <= 2 * pixels).all()
        and numbers.dtype.kind in "iu"
        and len(np.unique(numbers)) == len(numbers)
    )
    if not possible:
        raise InputError(f"{file} is damaged: its counts contradict each other")


def _of_split(pooled: Mapping[str, np.ndarray], classes: ByClass | None) -> ByClass:
    values = ByClass.of(pooled)
    return values if classes is None else values.within(classes)


def common_classes(several: Iterable[Scores]) -> ByClass:
    """Classes over which the means of several models can be compared: those with a value for every model.

    A class without labelled pixels has an IoU (of 0) only for models that predict it. Without a common set, the mean
    IoU of these models would be over more classes than that of the others.

    Returns:
        `(C,)` bool for each metric.
    """
    defined = [ByClass.of(scores._pooled()).defined() for scores in several]
    return ByClass(*(np.all(parts, 0) for parts in zip(*defined, strict=True)))


def _resampled_columns(found: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """Values `(R, count)` of resamples as `(count, R)`; `(count, 0)` without images."""
    return found[name].T if found else np.empty((count, 0))
