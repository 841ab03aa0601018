"""One pass over a split: everything that is measured on it, exactly, from one softmax over the logits."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segmentation.calibration import Reliability
from segmentation.confusion import Confusion
from segmentation.labels import Labels
from segmentation.metrics import METRICS
from segmentation.softmax import pixel_predictions


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
        sums = [pixels.valid, pixels.correct, pixels.negative_log_likelihood, pixels.brier]
        self._images.append(torch.stack([part.double().sum((1, 2)) for part in sums], 1).cpu().numpy())

    def merge(self, other: "Scores") -> None:
        """Append the images of another part of the split."""
        self.reliability.merge(other.reliability)
        self.confusion.merge(other.confusion)
        self._images += other._images

    def per_image(self) -> dict[str, np.ndarray]:
        """`(N,)` float64 each: non-void `pixels`, `correct` ones, sums of `negative_log_likelihood` and `brier`."""
        table = np.concatenate([np.zeros((0, 4)), *self._images])
        return dict(zip(("pixels", "correct", "negative_log_likelihood", "brier"), table.T, strict=True))

    def metrics(self) -> dict[str, float]:
        """Every metric of `segmentation.metrics.METRICS` by name; NaN where there is no non-void pixel."""
        sums = {name: float(values.sum()) for name, values in self.per_image().items()}
        pixels = sums["pixels"] or float("nan")
        bins = self.reliability.bins()
        values = {
            "loss": sums["negative_log_likelihood"] / pixels,
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "mean_class_accuracy": self.confusion.mean_class_accuracy(),
            "mean_iou": self.confusion.mean_iou(),
            "ece": bins.ece(),
            "mce": bins.mce(),
            "brier": sums["brier"] / pixels,
        }
        assert values.keys() == METRICS.keys()
        return values

    def class_iou(self) -> dict[str, float]:
        """Intersection over union by class name, without the classes neither present nor predicted."""
        iou = self.confusion.iou()
        return {name: float(value) for name, value in zip(self.labels.names, iou, strict=True) if value == value}

    def save_histograms(self, file: Path, names: Iterable[str]) -> None:
        """Write what was measured on each image, under its name, as an `.npz` that loads without pickle."""
        arrays = {"names": np.array(list(names), dtype=np.str_)} | self.reliability.histograms()
        arrays |= {f"image_{name}": values for name, values in self.per_image().items()}
        np.savez_compressed(file, allow_pickle=False, **arrays)


@torch.inference_mode()
def score(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    labels: Labels,
    autocast: AbstractContextManager[object] | None = None,
) -> Scores:
    """Score a network, in evaluation mode, on batches of images `(B, 3, H, W)` uint8 and masks `(B, H, W)`."""
    scores = Scores(labels)
    was_training = network.training
    network.eval()
    for images, masks in batches:
        with autocast or nullcontext():
            logits = network(images)
        scores.update(logits, masks)
    network.train(was_training)
    return scores
