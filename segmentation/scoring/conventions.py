"""The expected calibration error as other tools bin it, so that this project's figures can be checked against theirs.

Each convention was read off the tool's own source (torchmetrics 1.9.0, netcal 1.4.0) and is held to the installed tool
by tests. Only where pixels go is theirs: counts here are int64 and sums float64 in every convention. The differences,
worked out by hand: docs/bin-conventions.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from segmentation.errors import one_of
from segmentation.scoring.calibration_error import BINS
from segmentation.scoring.confusion import ratios
from segmentation.scoring.reliability import bin_of


class Placement(NamedTuple):
    """Where a convention puts pixels; arrays `(N,)`."""

    confidence: np.ndarray
    """The confidence that is averaged, in its own precision; netcal clips it."""
    averaged_in: np.ndarray
    """Bin to whose mean confidence and accuracy the pixel adds, int64 from 0; -1 is none."""
    weighed_in: np.ndarray
    """Bin to whose weight the pixel adds, int64 from 0; -1 is none. netcal alone may tell the two apart."""


@dataclass(frozen=True)
class Convention:
    """One way to put confidences into equal-width bins."""

    description: str
    """Which edge belongs to a bin, and where 1 goes."""
    place: Callable[[np.ndarray, int], Placement]
    """From confidences `(N,)` in [0, 1], float32 or float64, and the number of bins."""


def ece(
    confidence: np.ndarray | torch.Tensor,
    correct: np.ndarray | torch.Tensor,
    bins: int = BINS,
    convention: str = "(a, b]",
) -> float:
    """Expected calibration error, see `segmentation.scoring.calibration_error.ece`, in a convention of one's choice.

    Args:
        confidence: `(N,)` the top label's probability in [0, 1], float32 or float64, of pixels that are not void.
        correct: `(N,)` bool, whether the top label is the true one.
        bins: how many bins of equal width.
        convention: one of `CONVENTIONS`.

    Returns:
        The bins' absolute gaps weighted by their share of all `N` pixels; NaN without pixels.

    Raises:
        InputError: the convention is not known.
        ValueError: a shape, a type or a value does not fit.

    Example:
        >>> confidence, correct = np.array([0.95, 1.0]), np.array([True, False])
        >>> [round(ece(confidence, correct, convention=name), 3) for name in CONVENTIONS]
        [0.475, 0.525, 0.475, 0.025]
    """
    placement = place(confidence, bins, convention)
    if not str(correct.dtype).endswith("bool") or correct.shape != confidence.shape:
        raise ValueError(f"correct must be bool {tuple(confidence.shape)}, not {correct.dtype} {tuple(correct.shape)}")
    # a slot in front of the bins for pixels that are in none, and one behind them for the bin torchmetrics adds
    slots, slot = bins + 2, placement.averaged_in + 1
    count = np.bincount(slot, minlength=slots)
    confidence_sum = np.bincount(slot, placement.confidence, minlength=slots)
    right = np.bincount(slot[_array(correct)], minlength=slots)
    weight = np.bincount(placement.weighed_in + 1, minlength=slots)
    gaps = np.nan_to_num(ratios(np.abs(right - confidence_sum), count))
    return float((gaps * weight)[1:].sum()) / len(slot) if len(slot) else math.nan


def place(confidence: np.ndarray | torch.Tensor, bins: int = BINS, convention: str = "(a, b]") -> Placement:
    """The bin of each confidence in a convention; arguments and errors as of `ece`."""
    one_of("convention", convention, CONVENTIONS)
    if bins < 1:
        raise ValueError(f"bins={bins} is not 1 or more")
    if str(confidence.dtype).removeprefix("torch.") not in ("float32", "float64") or confidence.ndim != 1:
        shape = tuple(confidence.shape)
        raise ValueError(f"confidence must be float32 or float64 (N,), not {confidence.dtype} {shape}")
    values = _array(confidence)
    strange = ~((values >= 0) & (values <= 1))
    if strange.any():
        raise ValueError(f"confidence {values[strange][0]} is not in [0, 1]")
    return CONVENTIONS[convention].place(values, bins)


def _right_closed(confidence: np.ndarray, bins: int) -> Placement:
    where = bin_of(torch.from_numpy(confidence), bins).numpy()
    return Placement(confidence, where, where)


def _torchmetrics(confidence: np.ndarray, bins: int) -> Placement:
    """As `_binning_bucketize` in torchmetrics/functional/classification/calibration_error.py.

    torch's linspace is not k/n rounded: of 15 bins in float32, the edge for 0.2 lies one unit above it. The multiclass
    metric rounds confidences to float32 before they come here.
    """
    dtype = torch.float32 if confidence.dtype == np.float32 else torch.float64
    where = np.searchsorted(torch.linspace(0, 1, bins + 1, dtype=dtype).numpy(), confidence, side="right") - 1
    return Placement(confidence, where, where)


def _netcal(confidence: np.ndarray, bins: int) -> Placement:
    """As `_prepare_input` and `binning` in netcal/metrics/Miscalibration.py.

    It weighs with numpy's `histogramdd`, whose edges stay float64, and averages with scipy's `binned_statistic_dd`,
    which rounds them to the confidence's own precision.
    """
    epsilon = np.finfo(confidence.dtype).eps
    clipped = np.clip(confidence, epsilon, 1 - epsilon)
    edges = np.linspace(0, 1, bins + 1)
    averaged_in = np.searchsorted(edges.astype(confidence.dtype), clipped, side="right") - 1
    return Placement(clipped, averaged_in, np.searchsorted(edges, clipped, side="right") - 1)


def _starter_code(confidence: np.ndarray, bins: int) -> Placement:
    """`confidence >= lower and confidence < upper`, compared as numpy and torch do, in the confidence's precision."""
    edges = (np.arange(bins + 1) / bins).astype(confidence.dtype)
    where = np.searchsorted(edges, confidence, side="right") - 1
    where[where == bins] = -1
    return Placement(confidence, where, where)


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """As numpy; a copy of what cannot be written, about which torch would warn."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.require(values, requirements="W")


CONVENTIONS = {
    "(a, b]": Convention("bins (a, b] with 0 in the first, so 1 is in the last: this project's", _right_closed),
    "torchmetrics": Convention("bins [a, b) with a bin of its own, behind the last, for exactly 1", _torchmetrics),
    "netcal": Convention("bins [a, b) with 0 and 1 clipped into the first and the last", _netcal),
    "starter-code": Convention("bins [a, b) with exactly 1 in none, though it counts as a pixel", _starter_code),
}
"""By name; an edge is k/bins, rounded as each tool rounds it."""
