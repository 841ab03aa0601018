"""Each pixel's predicted class, confidence, loss and Brier score as tensors, for plots and `Reliability.update`.

Runs are scored by `softmax_counts`, which keeps counts only.
"""

from typing import NamedTuple

import torch

from segmentation.classes import VOID
from segmentation.scoring.log_odds import SMALLEST_ODDS
from segmentation.scoring.logit_checks import check_shapes


class PixelPredictions(NamedTuple):
    """Predictions for each pixel and their comparison with the true class; `(B, H, W)` unless noted otherwise."""

    label: torch.Tensor
    """Most probable class, int64; the lowest index of equals."""
    confidence: torch.Tensor
    """Probability of that class, in (0, 1]."""
    log_odds: torch.Tensor
    """ln(p / (1 - p)) of that probability p; does not saturate where p rounds to 1."""
    negative_log_likelihood: torch.Tensor
    """-ln of the probability of the true class, nats; 0 at void pixels."""
    brier: torch.Tensor
    """Sum over classes of (probability - truth)^2 (Brier 1950), in [0, 2]; 0 at void pixels."""
    valid: torch.Tensor
    """Whether the pixel is labelled, bool."""
    correct: torch.Tensor
    """Whether `label` is the true class, bool; False at void pixels."""
    probabilities: torch.Tensor
    """Of every class, `(B, C, H, W)`."""


def pixel_predictions(logits: torch.Tensor, labels: torch.Tensor) -> PixelPredictions:
    """Softmax over the classes and the values that follow from it.

    Args:
        logits: `(B, C, H, W)` floating point, not probabilities; half precision is converted to float32.
        labels: `(B, H, W)` integers below `C`, or 255 for void.

    Raises:
        ValueError: a shape, a type or a label is wrong.
    """
    check_shapes(logits, labels)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    labels = labels.long()
    valid = labels != VOID
    highest, label = logits.max(1)  # argmax is several times slower over a strided dimension
    shifted = logits - highest[:, None]
    index = torch.where(valid, labels, 0)[:, None]
    true_logit = shifted.gather(1, index)[:, 0]
    probabilities = shifted.exp_()
    own = probabilities.gather(1, label[:, None])  # 1, or NaN
    odds = probabilities.scatter_(1, label[:, None], 0).sum(1)  # of the other classes, since adding 1 loses digits
    probabilities.scatter_(1, label[:, None], own)
    total = odds + own[:, 0]
    nll = total.log() - true_logit
    probabilities /= total[:, None]
    brier = probabilities.square().sum(1) - 2 * probabilities.gather(1, index)[:, 0] + 1
    return PixelPredictions(
        label,
        1 / total,
        _log_odds(logits, highest, label, odds),
        torch.where(valid, nll, 0),
        torch.where(valid, brier, 0),
        valid,
        (label == labels) & valid,
        probabilities,
    )


def _log_odds(logits: torch.Tensor, highest: torch.Tensor, label: torch.Tensor, odds: torch.Tensor) -> torch.Tensor:
    """Log-odds of the top label from the sum of the other exponentials, or from the logits where it underflows."""
    found = -odds.log()
    tiny = odds < float(SMALLEST_ODDS)
    if tiny.any():
        image, row, column = tiny.nonzero(as_tuple=True)
        others = logits[image, :, row, column].scatter(1, label[tiny][:, None], -torch.inf)
        found[tiny] = highest[tiny] - others.logsumexp(1)
    return found
