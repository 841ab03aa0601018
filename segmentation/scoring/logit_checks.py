"""Checks of logits and labels that scoring and calibration start with."""

import torch

from segmentation.classes import VOID


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
            f"logits {tuple(logits.shape)} have {logits.shape[1]} channel, but a softmax needs at least two. For "
            f"the logits z of a binary model, stack [0, z]: torch.cat([torch.zeros_like(z), z], 1)"
        )
