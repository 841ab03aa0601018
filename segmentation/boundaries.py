"""Where classes meet: the band of pixels near a boundary, on which segmentation errs most.

The band is that of Kohli, Ladicky and Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV
2009, on both sides of every boundary.
"""

import torch
from torch.nn import functional as F


def boundary_band(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Whether a pixel with another label lies at most `width` rows and `width` columns away.

    Args:
        labels: `(B, H, W)` class indices; void is a label like any other here, since VOC draws boundaries as void.
        width: pixels; 0 is an empty band.

    Returns:
        `(B, H, W)` bool.
    """
    if width == 0:
        return torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    values = labels[:, None].float()
    return (_largest_near(values, width) != -_largest_near(-values, width))[:, 0]


def _largest_near(values: torch.Tensor, width: int) -> torch.Tensor:
    """Largest of `(B, 1, H, W)` in the square of side `2 width + 1` around each pixel: first rows, then columns."""
    for kernel, padding in (((2 * width + 1, 1), (width, 0)), ((1, 2 * width + 1), (0, width))):
        values = F.max_pool2d(values, kernel, stride=1, padding=padding)
    return values
