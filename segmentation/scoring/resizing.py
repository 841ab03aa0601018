"""Logits at the size of the masks: whole, or some rows at a time where the whole would need too much memory."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

AT_ONCE = 2**28
"""Most logits that are resized together: 1 GB of float32."""
IN_ROWS = 2**25
"""Logits in some of the rows, where there are more: 134 MB of float32."""


def resized(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Logits `(B, C, h, w)` resized to `(B, C, H, W)`, as torchvision's models resize theirs."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def rows_at_size(logits: torch.Tensor, size: Sequence[int]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield rows and their logits, `(B, C, n, W)`, from the first row to the last.

    All rows together if they are at most `AT_ONCE` logits. Rows alone equal those of `resized` up to rounding.

    Args:
        logits: `(B, C, h, w)`.
        size: `H` and `W`.
    """
    (images, classes, source, _), (height, width) = logits.shape, size
    if images * classes * height * width <= AT_ONCE:
        yield slice(0, height), resized(logits, size)
        return
    step = max(1, IN_ROWS // (images * classes * width))
    for first in range(0, height, step):
        rows = slice(first, min(first + step, height))
        if tuple(logits.shape[2:]) == tuple(size):
            yield rows, logits[:, :, rows]
            continue
        position = torch.arange(rows.start, rows.stop, device=logits.device)
        position = ((position + 0.5) * (source / height) - 0.5).clamp(min=0)
        above = position.long()  # positions are not negative
        below = (above + 1).clamp(max=source - 1)
        upper, lower = (logits.index_select(2, each).float() for each in (above, below))
        yield rows, resized(upper.lerp_(lower, (position - above)[:, None].float()), (rows.stop - first, width))
