"""Is the confidence to be believed? Exact top-label reliability histograms of every non-void pixel, kept per image.

Bins are `(a, b]`, with 0 in the first, so that a confidence of exactly 1 is in the last. There is one binner, of 600
equal bins; 10, 12, 15, 20, 25, 30 or any other number of bins that divides 600 is made by adding neighbours up, so
figures, numbers and bars can never disagree. Counts are int64 and sums float64: float32 would stop counting at 2**24.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segmentation.confusion import ratios
from segmentation.softmax import PixelPredictions, pixel_predictions

FINE_BINS = 600


def ece(count: np.ndarray, confidence_sum: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Expected calibration error: the bins' absolute gaps weighted by their share of pixels, in [0, 1].

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; with the
    top label's confidence as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        count, confidence_sum, correct: pixels, sum of confidences and right pixels of the bins, `(..., n)`.

    Returns:
        `(...)`; NaN without pixels.
    """
    return ratios(np.abs(correct - confidence_sum).sum(-1), count.sum(-1))


def mce(count: np.ndarray, confidence_sum: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Maximum calibration error (Naeini et al. 2015): the largest absolute gap of any bin; arguments as of `ece`."""
    gaps = np.nan_to_num(ratios(np.abs(correct - confidence_sum), count))
    return np.where(count.sum(-1) > 0, gaps.max(-1), np.nan)


@dataclass(frozen=True)
class Bins:
    """A reliability diagram in numbers: `(n,)` arrays over `n` equal-width bins of confidence."""

    count: np.ndarray
    """Pixels in each bin, int64."""
    confidence_sum: np.ndarray
    """Sum of their confidences, float64."""
    correct: np.ndarray
    """How many of them are right, int64."""

    @property
    def edges(self) -> np.ndarray:
        """`(n + 1,)` edges of the bins in [0, 1]."""
        return np.arange(len(self.count) + 1) / len(self.count)

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence of each bin; NaN for an empty one."""
        return ratios(self.confidence_sum, self.count)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right pixels of each bin; NaN for an empty one."""
        return ratios(self.correct, self.count)

    @property
    def share(self) -> np.ndarray:
        """Each bin's share of all pixels; NaN where there are none at all."""
        return ratios(self.count, np.full(len(self.count), self.count.sum()))

    @property
    def gap(self) -> np.ndarray:
        """Accuracy minus confidence of each bin: negative is over-confident; NaN for an empty one."""
        return ratios(self.correct - self.confidence_sum, self.count)

    def ece(self) -> float:
        """Expected calibration error, see the function `ece`; NaN without pixels."""
        return float(ece(self.count, self.confidence_sum, self.correct))

    def mce(self) -> float:
        """Maximum calibration error, see the function `mce`; NaN without pixels."""
        return float(mce(self.count, self.confidence_sum, self.correct))

    def signed_gap(self) -> float:
        """Mean accuracy minus mean confidence over all pixels: negative is over-confident; NaN without pixels."""
        return float(ratios((self.correct - self.confidence_sum).sum(), self.count.sum()))


class Reliability:
    """Top-label reliability histograms of a split, one per image, filled in a stream.

    Images keep the order in which they came; each takes 9.6 kB.

    Example:
        >>> reliability = Reliability()
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2): confidences 0.881 and 0.5
        >>> reliability.update(logits, torch.tensor([[[0, 1]]]))
        >>> round(reliability.ece(bins=10), 4)
        0.3096
    """

    def __init__(self) -> None:
        self._count: list[np.ndarray] = []
        self._confidence_sum: list[np.ndarray] = []
        self._correct: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._count)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch of images.

        Args:
            logits: `(B, C, H, W)` floating point, before any softmax.
            labels: `(B, H, W)` whole numbers, 255 is void.

        Raises:
            ValueError: a shape, a type or a label does not fit.
        """
        self.add(pixel_predictions(logits, labels))

    def add(self, pixels: PixelPredictions) -> None:
        """Add a batch of images whose predictions have been made from their logits."""
        self.add_confidences(pixels.confidence, pixels.correct, pixels.valid)

    def add_confidences(self, confidence: torch.Tensor, correct: torch.Tensor, valid: torch.Tensor) -> None:
        """Add a batch of images by the top label's confidence in [0, 1], whether it is right, and whether it counts.

        All `(B, ...)` of one shape. An edge is k/600 in the precision of the confidence, so that a float32 confidence
        written as 0.1 lies on the edge 0.1.
        """
        images = len(confidence)
        interior = torch.arange(1, FINE_BINS, device=confidence.device, dtype=torch.float64) / FINE_BINS
        fine = torch.bucketize(confidence, interior.to(confidence.dtype), right=False)
        row = torch.arange(images, device=confidence.device).reshape(-1, *[1] * (confidence.ndim - 1))
        cell = torch.where(valid, row * FINE_BINS + fine, images * FINE_BINS).flatten()
        cells = images * FINE_BINS + 1
        both = torch.bincount(2 * cell + (correct & valid).flatten(), minlength=2 * cells)
        sums = torch.bincount(cell, confidence.double().flatten(), minlength=cells)
        wrong, right = both[: 2 * (cells - 1)].reshape(images, FINE_BINS, 2).cpu().numpy().transpose(2, 0, 1)
        self._count.append((wrong + right).astype(np.uint32))
        self._correct.append(right.astype(np.uint32))
        self._confidence_sum.append(sums[:-1].reshape(images, FINE_BINS).cpu().numpy())

    def merge(self, other: "Reliability") -> None:
        """Append the images of another part of the split."""
        self._count += other._count
        self._confidence_sum += other._confidence_sum
        self._correct += other._correct

    def histograms(self) -> dict[str, np.ndarray]:
        """Per image, `(N, 600)` each: `count` and `correct` uint32, `confidence_sum` float64."""
        empty = np.zeros((0, FINE_BINS))
        return {
            "count": np.concatenate([empty.astype(np.uint32), *self._count]),
            "confidence_sum": np.concatenate([empty, *self._confidence_sum]),
            "correct": np.concatenate([empty.astype(np.uint32), *self._correct]),
        }

    def per_image(self, bins: int = 10) -> dict[str, np.ndarray]:
        """Each image in `bins` equal bins, a number that divides 600: `(N, bins)` each, as `histograms`."""
        _check_divides(bins)
        return {
            name: values.reshape(len(values), bins, FINE_BINS // bins).sum(2)
            for name, values in self.histograms().items()
        }

    def bins(self, bins: int = 10) -> Bins:
        """All pixels of all images pooled in `bins` equal bins, a number that divides 600."""
        _check_divides(bins)
        pooled = (
            sum((part.sum(0, dtype) for part in parts), np.zeros(FINE_BINS, dtype)).reshape(bins, -1).sum(1)
            for parts, dtype in (
                (self._count, np.int64),
                (self._confidence_sum, np.float64),
                (self._correct, np.int64),
            )
        )
        return Bins(*pooled)

    def ece(self, bins: int = 10) -> float:
        """Expected calibration error over all pixels, see `Bins.ece`."""
        return self.bins(bins).ece()

    def mce(self, bins: int = 10) -> float:
        """Maximum calibration error over all pixels, see `Bins.mce`."""
        return self.bins(bins).mce()


def _check_divides(bins: int) -> None:
    if bins < 1 or FINE_BINS % bins:
        raise ValueError(f"bins={bins} does not divide {FINE_BINS}")
