"""One pass over a split: everything that is measured on it, exactly, from one softmax over the logits."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segmentation.calibration import Reliability, ece, mce
from segmentation.confusion import Confusion, iou, mean_of_defined, ratios
from segmentation.labels import Labels
from segmentation.metrics import METRICS
from segmentation.resampling import Interval, intervals
from segmentation.softmax import pixel_predictions


def figures(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every metric of `segmentation.metrics.METRICS` from sums over images.

    Args:
        sums: arrays `(..., K)` by the names of `Scores.per_image`, summed over whichever images.

    Returns:
        Arrays `(...)`; NaN where there is no non-void pixel.
    """
    bins = sums["count"], sums["confidence_sum"], sums["correct"]
    classes = sums["intersection"], sums["labelled"], sums["predicted"]
    values = {
        "loss": ratios(sums["negative_log_likelihood"], sums["pixels"]),
        "pixel_accuracy": ratios(sums["correct"].sum(-1), sums["pixels"]),
        "mean_class_accuracy": mean_of_defined(ratios(sums["intersection"], sums["labelled"])),
        "mean_iou": mean_of_defined(iou(*classes)),
        "ece": ece(*bins),
        "mce": mce(*bins),
        "brier": ratios(sums["brier"], sums["pixels"]),
    }
    assert values.keys() == METRICS.keys()
    return values


class Scores:
    """What has been measured on a split so far; images keep the order in which they came."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.reliability = Reliability()
        self.confusion = Confusion(len(labels))
        self._images: list[np.ndarray] = []

    def update(self, logits: torch.Tensor, masks: torch.Tensor) -> None:
        """Add a batch: logits `(B, C, H, W)`, masks `(B, H, W)` of class indices, 255 is void."""
        pixels = pixel_predictions(logits, masks)
        self.reliability.add(pixels)
        self.confusion.update(pixels.label, masks, pixels.valid)
        sums = [pixels.valid, pixels.negative_log_likelihood, pixels.brier]
        self._images.append(torch.stack([part.double().sum((1, 2)) for part in sums], 1).cpu().numpy())

    def merge(self, other: "Scores") -> None:
        """Append the images of another part of the split."""
        self.reliability.merge(other.reliability)
        self.confusion.merge(other.confusion)
        self._images += other._images

    def per_image(self) -> dict[str, np.ndarray]:
        """Everything that `figures` follows from, for each image.

        `(N,)` float64: `pixels` that are not void, sums of `negative_log_likelihood` and `brier`.
        `(N, 10)`, the reliability bins: `count`, `confidence_sum`, `correct`.
        `(N, C)`, pixels by class: `intersection`, `labelled`, `predicted`.
        """
        table = np.concatenate([np.zeros((0, 3)), *self._images])
        sums = dict(zip(("pixels", "negative_log_likelihood", "brier"), table.T, strict=True))
        return sums | self.reliability.per_image() | self.confusion.per_image()

    def metrics(self) -> dict[str, float]:
        """Every metric of `segmentation.metrics.METRICS` by name; NaN where there is no non-void pixel."""
        pooled = {name: values.sum(0) for name, values in self.per_image().items()}
        return {name: float(value) for name, value in figures(pooled).items()}

    def intervals(self) -> dict[str, Interval]:
        """95 % interval of every metric over 10,000 resamples of the images."""
        return intervals(figures, self.per_image())

    def class_iou(self) -> dict[str, float]:
        """Intersection over union by class name, without the classes neither present nor predicted."""
        iou = self.confusion.iou()
        return {name: float(value) for name, value in zip(self.labels.names, iou, strict=True) if value == value}

    def save_histograms(self, file: Path, names: Iterable[str]) -> None:
        """Write what was measured on each image, under its name, as an `.npz` that loads without pickle."""
        arrays = self.per_image() | self.reliability.histograms()
        np.savez_compressed(file, allow_pickle=False, names=np.array(list(names), dtype=np.str_), **arrays)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the network is in the mode it was in."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        yield
    network.train(was_training)


def score(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    labels: Labels,
    autocast: AbstractContextManager[object] | None = None,
) -> Scores:
    """Score a network, in evaluation mode, on batches of images `(B, 3, H, W)` uint8 and masks `(B, H, W)`."""
    scores = Scores(labels)
    with evaluating(network):
        for images, masks in batches:
            with autocast or nullcontext():
                logits = network(images)
            scores.update(logits, masks)
    return scores
