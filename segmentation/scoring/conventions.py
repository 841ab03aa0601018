"""Expected calibration error in the bin conventions of other tools, for comparison with their results.

Each convention follows the tool's source (torchmetrics 1.9.0, netcal 1.4.0); tests compare it with the installed tool.
Only the assignment of pixels to bins is theirs: counts are int64 and sums float64 in every convention.
docs/bin-conventions.md works out the differences by hand.
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
    """Assignment of pixels to bins in a convention; arrays `(N,)`."""

    confidence: np.ndarray
    """The confidence that is averaged, in its original precision; netcal clips it."""
    averaged_in: np.ndarray
    """Bin for the mean confidence and accuracy, int64 from 0; -1 is none."""
    weighed_in: np.ndarray
    """Bin for the weight, int64 from 0; -1 is none. Differs from `averaged_in` only for netcal."""


@dataclass(frozen=True)
class Convention:
    """A rule that assigns confidences to equal-width bins."""

    description: str
    """Which edge belongs to a bin, and which bin holds 1."""
    assign: Callable[[np.ndarray, int], Placement]
    """Function of confidences `(N,)` in [0, 1], float32 or float64, and the number of bins."""


def ece(
    confidence: np.ndarray | torch.Tensor,
    correct: np.ndarray | torch.Tensor,
    bins: int = BINS,
    convention: str = "(a, b]",
) -> float:
    """Expected calibration error (see `segmentation.scoring.calibration_error.ece`) in a bin convention.

    Args:
        confidence: `(N,)` the top label's probability in [0, 1], float32 or float64, of pixels that are not void.
        correct: `(N,)` bool, whether the top label is the true class.
        bins: number of equal-width bins.
        convention: one of `CONVENTIONS`.

    Returns:
        Mean absolute gap of the bins, weighted by their fraction of all `N` pixels; NaN without pixels.

    Raises:
        InputError: the convention is unknown.
        ValueError: a shape, a type or a value is wrong.

    Example:
        >>> confidence, correct = np.array([0.95, 1.0]), np.array([True, False])
        >>> [round(ece(confidence, correct, convention=name), 3) for name in CONVENTIONS]
        [0.475, 0.525, 0.475, 0.025]
    """
    placement = assign(confidence, bins, convention)
    if not str(correct.dtype).endswith("bool") or correct.shape != confidence.shape:
        raise ValueError(f"correct must be bool {tuple(confidence.shape)}, not {correct.dtype} {tuple(correct.shape)}")
    # slot 0 holds pixels that are in no bin, and the last slot is the additional bin of torchmetrics
    slots, slot = bins + 2, placement.averaged_in + 1
    count = np.bincount(slot, minlength=slots)
    confidence_sum = np.bincount(slot, placement.confidence, minlength=slots)
    right = np.bincount(slot[_array(correct)], minlength=slots)
    weight = np.bincount(placement.weighed_in + 1, minlength=slots)
    gaps = np.nan_to_num(ratios(np.abs(right - confidence_sum), count))
    return float((gaps * weight)[1:].sum()) / len(slot) if len(slot) else math.nan


def assign(confidence: np.ndarray | torch.Tensor, bins: int = BINS, convention: str = "(a, b]") -> Placement:
    """The bin of each confidence in a convention; arguments and errors as for `ece`."""
    one_of("convention", convention, CONVENTIONS)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    if str(confidence.dtype).removeprefix("torch.") not in ("float32", "float64") or confidence.ndim != 1:
        shape = tuple(confidence.shape)
        raise ValueError(f"confidence must be float32 or float64 (N,), not {confidence.dtype} {shape}")
    values = _array(confidence)
    invalid = ~((values >= 0) & (values <= 1))
    if invalid.any():
        raise ValueError(f"confidence {values[invalid][0]} is not in [0, 1]")
    return CONVENTIONS[convention].assign(values, bins)


def _right_closed(confidence: np.ndarray, bins: int) -> Placement:
    where = bin_of(torch.from_numpy(confidence), bins).numpy()
    return Placement(confidence, where, where)


def _torchmetrics(confidence: np.ndarray, bins: int) -> Placement:
    """As `_binning_bucketize` in torchmetrics/functional/classification/calibration_error.py.

    torch.linspace does not round k/n: for 15 bins in float32, the edge for 0.2 is one unit above 0.2. The multiclass
    metric rounds confidences to float32 first.
    """
    dtype = torch.float32 if confidence.dtype == np.float32 else torch.float64
    where = np.searchsorted(torch.linspace(0, 1, bins + 1, dtype=dtype).numpy(), confidence, side="right") - 1
    return Placement(confidence, where, where)


def _netcal(confidence: np.ndarray, bins: int) -> Placement:
    """As `_prepare_input` and `binning` in netcal/metrics/Miscalibration.py.

    It weighs with numpy's `histogramdd`, whose edges are float64, and averages with scipy's `binned_statistic_dd`,
    which rounds the edges to the precision of the confidence.
    """
    epsilon = np.finfo(confidence.dtype).eps
    clipped = np.clip(confidence, epsilon, 1 - epsilon)
    edges = np.linspace(0, 1, bins + 1)
    averaged_in = np.searchsorted(edges.astype(confidence.dtype), clipped, side="right") - 1
    return Placement(clipped, averaged_in, np.searchsorted(edges, clipped, side="right") - 1)


def _starter_code(confidence: np.ndarray, bins: int) -> Placement:
    """`confidence >= lower and confidence < upper`, compared in the confidence's precision, as in numpy and torch."""
    edges = (np.arange(bins + 1) / bins).astype(confidence.dtype)
    where = np.searchsorted(edges, confidence, side="right") - 1
    where[where == bins] = -1
    return Placement(confidence, where, where)


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """As a numpy array; read-only arrays are copied, because torch warns about them."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.require(values, requirements="W")


CONVENTIONS = {
    "(a, b]": Convention("bins (a, b] with 0 in the first and 1 in the last; used by this project", _right_closed),
    "torchmetrics": Convention("bins [a, b) with an additional bin, after the last, for exactly 1", _torchmetrics),
    "netcal": Convention("bins [a, b) with 0 and 1 clipped into the first and the last", _netcal),
    "starter-code": Convention("bins [a, b) with exactly 1 in no bin, although it counts as a pixel", _starter_code),
}
"""Conventions by name; edges are k/bins, rounded as in each tool."""
