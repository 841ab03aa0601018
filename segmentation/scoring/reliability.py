"""Exact reliability histograms of the non-void pixels of each image.

Bins are `(a, b]`, with 0 in the first, so a confidence of exactly 1 is in the last. All histograms have 600 equal
bins. Any number of bins that divides 600 (10, 12, 15, 20, 25, 30, ...) is made by adding up neighbouring bins, so that
metrics and plots always agree. Counts are int64 and sums float64: float32 would stop counting at 2**24.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from segmentation.devices import countable
from segmentation.scoring.calibration_error import BINS, coarse, confidence_gap, ece, mce
from segmentation.scoring.confusion import ratios
from segmentation.scoring.image_table import ImageTable
from segmentation.scoring.pixel_predictions import pixel_predictions

FINE_BINS = 600


@dataclass(frozen=True)
class Bins:
    """Numbers of a reliability diagram: `(n,)` arrays over `n` equal-width bins of confidence.

    Leading axes, `(..., n)`, hold several diagrams at once.
    """

    NAMES: ClassVar = ("count", "confidence_sum", "correct")

    count: np.ndarray
    """Pixels in each bin, int64."""
    confidence_sum: np.ndarray
    """Sum of their confidences, float64."""
    correct: np.ndarray
    """Number of correct pixels among them, int64."""

    @property
    def edges(self) -> np.ndarray:
        """`(n + 1,)` edges of the bins in [0, 1]."""
        return np.arange(len(self.count) + 1) / len(self.count)

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence of each bin; NaN for an empty bin."""
        return ratios(self.confidence_sum, self.count)

    @property
    def accuracy(self) -> np.ndarray:
        """Fraction of correct pixels of each bin; NaN for an empty bin."""
        return ratios(self.correct, self.count)

    @property
    def fraction(self) -> np.ndarray:
        """Fraction of all pixels in each bin; NaN without pixels."""
        return ratios(self.count, np.full(len(self.count), self.count.sum()))

    @property
    def gap(self) -> np.ndarray:
        """Accuracy minus confidence of each bin: negative is over-confident; NaN for an empty bin."""
        return ratios(self.correct - self.confidence_sum, self.count)

    def of(self, index: int) -> "Bins":
        """One of several diagrams `(..., C, n)`."""
        return Bins(*(part[..., index, :] for part in self.named().values()))

    def each(self, *shape: int) -> "Bins":
        """Several diagrams reshaped to `(*shape, n)`."""
        return Bins(*(part.reshape(*shape, part.shape[-1]) for part in self.named().values()))

    def named(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The three arrays by name, with a prefix."""
        return {f"{prefix}{name}": getattr(self, name) for name in self.NAMES}

    def without(self, part: "Bins") -> "Bins":
        """Bins of the pixels that are not in `part`."""
        confidence_sum = np.maximum(self.confidence_sum - part.confidence_sum, 0)  # may round below 0
        return Bins(self.count - part.count, confidence_sum, self.correct - part.correct)

    def ece(self) -> float:
        """Expected calibration error, see the function `ece`; NaN without pixels."""
        return float(ece(self.count, self.correct - self.confidence_sum))

    def mce(self) -> float:
        """Maximum calibration error, see the function `mce`; NaN without pixels."""
        return float(mce(self.count, self.correct - self.confidence_sum))

    def signed_gap(self) -> float:
        """Mean accuracy minus mean confidence over all pixels: negative is over-confident; NaN without pixels."""
        return float(confidence_gap(self.count, self.correct - self.confidence_sum))


def histograms(
    row: torch.Tensor, bin_index: torch.Tensor, confidence: torch.Tensor, correct: torch.Tensor, rows: int, bins: int
) -> Bins:
    """Sort pixels into `rows` diagrams of `bins` bins each, `(rows, bins)`.

    Args:
        row: diagram of each pixel; `rows` or more ignores the pixel.
        bin_index: bin of its confidence.
        confidence: values to be summed in float64.
        correct: whether the pixel is correct.
        rows, bins: number of diagrams and of bins.

    All tensors have the same shape.
    """
    row, bin_index, confidence, correct = countable(row, bin_index, confidence, correct)
    cells = rows * bins
    cell = torch.where(row < rows, row * bins + bin_index, cells).flatten()
    if torch.are_deterministic_algorithms_enabled():  # CUDA adds weights in any order
        cell, confidence, correct = cell.cpu(), confidence.cpu(), correct.cpu()
    both = torch.bincount(2 * cell + correct.flatten(), minlength=2 * cells + 2)[: 2 * cells]
    sums = torch.bincount(cell, confidence.double().flatten(), minlength=cells + 1)[:cells].double()
    wrong, right = both.reshape(rows, bins, 2).cpu().numpy().transpose(2, 0, 1)
    return Bins(wrong + right, sums.reshape(rows, bins).cpu().numpy(), right)


def bin_of(confidence: torch.Tensor, bins: int) -> torch.Tensor:
    """Index of the bin `(a, b]` of each confidence in [0, 1], of `bins` equal bins, int64; 0 is in the first.

    An edge is k/bins in the precision of the confidence: a float32 confidence written as 0.1 lies on the edge 0.1.
    """
    edges = equal_edges(bins, torch.device("cpu"))  # since not every device has float64
    return torch.bucketize(confidence, edges.to(confidence.dtype).to(confidence.device), right=False)


def equal_edges(bins: int, device: torch.device) -> torch.Tensor:
    """Inner edges of equal bins of [0, 1], `(bins - 1,)` float64."""
    numbers = torch.arange(1, bins, dtype=torch.float64, device=device)
    return numbers / torch.full_like(numbers, bins)  # CUDA would multiply by the inverse of a scalar


def histogram_columns(rows: tuple[int, ...], bins: int, prefix: str = "") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Columns of an `ImageTable` that hold an image's histograms."""
    types = {"count": "u4", "confidence_sum": "f8", "correct": "u4"}
    return {prefix + name: (dtype, (*rows, bins)) for name, dtype in types.items()}


class Reliability:
    """Top-label reliability histogram of each image, filled batch by batch; 9.6 kB per image, on disk.

    Example:
        >>> reliability = Reliability()
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2): confidences 0.881 and 0.5
        >>> reliability.update(logits, torch.tensor([[[0, 1]]]))
        >>> round(reliability.ece(bins=10), 4)
        0.3096
    """

    def __init__(self) -> None:
        self.table = ImageTable(histogram_columns((), FINE_BINS))

    def __len__(self) -> int:
        return len(self.table)

    def update(self, logits: torch.Tensor, labels: torch.Tensor, images: Sequence[int] | None = None) -> None:
        """Add a batch of images.

        Args:
            logits: `(B, C, H, W)` floating point, before any softmax.
            labels: `(B, H, W)` integers, 255 is void.
            images: number of each image, see `ImageTable`: an image is counted once. None counts all images.

        Raises:
            ValueError: a shape, a type or a label is wrong.
        """
        pixels = pixel_predictions(logits, labels)
        self.add_confidences(pixels.confidence, pixels.correct, pixels.valid, images)

    def add_confidences(
        self,
        confidence: torch.Tensor,
        correct: torch.Tensor,
        valid: torch.Tensor,
        images: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Add a batch of images: the top label's confidence in [0, 1], whether it is correct, and whether it counts.

        All tensors have the same shape, `(B, ...)`.

        Returns:
            The fine bin of each pixel, int64, of that shape.
        """
        count = len(confidence)
        fine = bin_of(confidence, FINE_BINS)
        row = torch.where(valid, numbered(confidence), count)
        self.table.append(histograms(row, fine, confidence, correct & valid, count, FINE_BINS).named(), images)
        return fine

    def merge(self, other: "Reliability") -> None:
        """Add the images of another part of the split; an image in both parts counts once."""
        self.table.extend(other.table)

    def bins(self, bins: int = BINS) -> Bins:
        """All pixels of all images in `bins` equal bins, a number that divides 600."""
        return Bins(*(coarse(total, bins) for total in self.table.totals.values()))

    def ece(self, bins: int = BINS) -> float:
        """Expected calibration error over all pixels, see `Bins.ece`."""
        return self.bins(bins).ece()

    def mce(self, bins: int = BINS) -> float:
        """Maximum calibration error over all pixels, see `Bins.mce`."""
        return self.bins(bins).mce()


def numbered(batch: torch.Tensor) -> torch.Tensor:
    """Index of each pixel's image, `(B, 1, ...)` int64, which broadcasts over `(B, ...)`."""
    return torch.arange(len(batch), device=batch.device).reshape(-1, *[1] * (batch.ndim - 1))
