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
    lowest, highest = (_near(extreme, labels, width) for extreme in (torch.minimum, torch.maximum))
    return lowest != highest


def _near(
    extreme: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], values: torch.Tensor, width: int
) -> torch.Tensor:
    """Smallest or largest value within `width` rows and columns of each pixel."""
    for axis in (1, 2):
        first, last = (values.narrow(axis, index, 1) for index in (0, values.shape[axis] - 1))
        padded = torch.cat([first] * width + [values] + [last] * width, axis)
        values = extreme_in_windows(extreme, padded, axis, 2 * width + 1)
    return values


def extreme_in_windows(
    extreme: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], values: torch.Tensor, axis: int, window: int
) -> torch.Tensor:
    """Smallest or largest of every `window` values in a row along an axis, by windows that double in length.

    Args:
        extreme: `torch.minimum` or `torch.maximum`.
        values: of any shape, at least `window` long along the axis, which becomes shorter by `window - 1`.
        axis: along which the windows lie.
        window: number of values.
    """
    known = 1
    while known < window:
        step = min(known, window - known)
        rest = values.shape[axis] - step
        values = extreme(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
        known += step
    return values
