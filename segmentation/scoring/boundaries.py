"""The band of pixels near a boundary between classes, on both sides of it.

Kohli, Ladicky and Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009.
"""

from collections.abc import Callable

import torch


def boundary_band(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Whether a pixel with another label is within `width` rows and `width` columns.

    Args:
        labels: `(B, H, W)` class indices. Void counts as a label, because VOC marks boundaries as void.
        width: in pixels; 0 gives an empty band.

    Returns:
        `(B, H, W)` bool.
    """
    if width == 0:
        return torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    lowest = highest = labels
    for axis in (1, 2):
        lowest = _near(torch.minimum, lowest, axis, width)
        highest = _near(torch.maximum, highest, axis, width)
    return lowest != highest


def _near(
    extreme: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], values: torch.Tensor, axis: int, width: int
) -> torch.Tensor:
    """Smallest or largest value within `width` pixels along an axis, by windows that double in length."""
    window, known = 2 * width + 1, 1
    first, last = (values.narrow(axis, index, 1) for index in (0, values.shape[axis] - 1))
    found = torch.cat([first] * width + [values] + [last] * width, axis)
    while known < window:
        step = min(known, window - known)
        rest = found.shape[axis] - step
        found = extreme(found.narrow(axis, 0, rest), found.narrow(axis, step, rest))
        known += step
    return found
