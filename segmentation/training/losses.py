"""The training loss. A new loss is a function here and its field in `segmentation/config.py`."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from segmentation.classes import VOID
from segmentation.config import TrainingConfig


def training_loss(
    outputs: Mapping[str, torch.Tensor], masks: torch.Tensor, config: TrainingConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss that is minimized and the part of it that is logged, each a sum over the non-void pixels.

    Args:
        outputs: logits `(B, C, H, W)`: `out` of the head, and `aux` of the auxiliary head if `config.auxiliary_loss`.
        masks: `(B, H, W)` class indices, 255 is void.
        config: weights of the terms.

    Returns:
        `logged + auxiliary_loss * auxiliary` and `logged`, the cross-entropy of the head in nats.
    """
    logged = total = cross_entropy_sum(outputs["out"], masks)
    if config.auxiliary_loss:
        total = total + config.auxiliary_loss * cross_entropy_sum(outputs["aux"], masks)
    return total, logged


def cross_entropy_sum(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over the non-void pixels, computed in float32 or higher precision.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.

    Returns:
        A scalar; 0 for a batch that contains only void.
    """
    if torch.are_deterministic_algorithms_enabled():  # CUDA's kernel for reduction="sum" is not deterministic
        return F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction="none").sum()
    return F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction="sum")
