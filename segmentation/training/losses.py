"""What training makes small."""

import torch
from torch.nn import functional as F

from segmentation.classes import VOID


def cross_entropy_sum(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over the non-void pixels, computed in float32 at least.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.

    Returns:
        A scalar: 0 for a batch that is all void.
    """
    if torch.are_deterministic_algorithms_enabled():  # CUDA has no deterministic kernel that sums at once
        return F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction="none").sum()
    return F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction="sum")
