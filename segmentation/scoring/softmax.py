"""Softmax of logits, and each pixel's predicted class, confidence, loss and Brier score."""

from typing import NamedTuple

import torch

from segmentation.classes import VOID
from segmentation.scoring.log_odds import SMALLEST_ODDS


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


def check_shapes(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise a `ValueError` unless logits are `(B, C, H, W)` float and labels `(B, H, W)` integers below C, or void."""
    check_types(logits, labels)
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(f"labels must have the shape {expected}, not {tuple(labels.shape)}")
    check_labels(labels, logits.shape[1])


def check_types(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise a `ValueError` unless logits are `(B, C, h, w)` float and labels `(B, H, W)` integers."""
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating point (B, C, H, W), not {logits.dtype} {tuple(logits.shape)}")
    check_classes(logits)
    if labels.ndim != 3 or len(labels) != len(logits):
        raise ValueError(f"labels must have the shape ({len(logits)}, H, W), not {tuple(labels.shape)}")
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, not {labels.dtype}")


def check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise a `ValueError` for a label that is neither below the number of classes nor void."""
    if labels.dtype == torch.uint8 and labels.numel() and (labels + 1).max() <= classes:
        return  # fast path: void + 1 overflows to 0
    invalid = (labels != VOID) & ((labels < 0) | (labels >= classes))
    if invalid.any():
        raise ValueError(wrong_label(int(labels[invalid][0]), classes))


def wrong_label(label: int, classes: int) -> str:
    """Message about a label that is neither below the number of classes nor void."""
    return f"label {label} is neither below {classes} classes nor void ({VOID})"


def check_classes(logits: torch.Tensor) -> None:
    """Raise a `ValueError` if logits `(B, C, H, W)` have a single channel, whose softmax is 1 everywhere."""
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits.shape)} have {logits.shape[1]} channel(s), but a softmax needs at least two. For "
            f"the logits z of a binary model, stack [0, z]: torch.cat([torch.zeros_like(z), z], 1)"
        )
