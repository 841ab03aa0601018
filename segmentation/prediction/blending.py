"""Blends the probabilities of overlapping windows; memory does not grow with the height of the image.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from segmentation.prediction.views import starts


class Axis(NamedTuple):
    """The windows along one side of an image."""

    starts: list[int]
    """First pixel of each window."""
    size: int
    """Length of a window in pixels."""
    weights: torch.Tensor
    """`(windows, size)` float32. At every pixel of the side, the weights of the windows that hold it sum to 1."""

    @property
    def ends(self) -> list[int]:
        """For each window, the first pixel of the next one; for the last window, its end."""
        return [*self.starts[1:], self.starts[-1] + self.size]


def axis(length: int, tile: int, overlap: float) -> Axis:
    """Return the windows along a side of `length` pixels, with their weights.

    The weights are Hann windows, which fall smoothly to 0 at both ends of a window (Pielawski and Wählby, "Introducing
    Hann windows for reducing edge-effects in patch-based image segmentation", PLoS ONE 15(3), 2020), divided by their
    sum.
    """
    first, size = starts(length, tile, overlap), min(tile, length)
    hann = torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size).square()
    total = torch.zeros(length, dtype=torch.float64)
    for start in first:
        total[start : start + size] += hann
    return Axis(first, size, torch.stack([hann / total[start : start + size] for start in first]).float())


class Block(NamedTuple):
    """A finished part of an image. The blocks of an image cover every pixel once."""

    top: int
    left: int
    probabilities: torch.Tensor
    """`(C, h, w)`, valid until the next block is computed."""


def blended(rows: Axis, columns: Axis, windows: Iterator[torch.Tensor]) -> Iterator[Block]:
    """Yield the weighted sum of the windows' probabilities, from left to right and from top to bottom.

    Memory holds one window, and of the full width only the rows that the next row of windows shares.

    Args:
        rows: the windows along the height.
        columns: the windows along the width.
        windows: the probabilities `(C, rows.size, columns.size)` of each window, row by row of windows.
    """
    if len(rows.starts) == len(columns.starts) == 1:
        yield Block(0, 0, next(windows))
        return
    pending = shared = torch.empty(0)
    kept_above = 0
    most_kept = max(top + rows.size - below for top, below in zip(rows.starts, rows.ends, strict=True))
    for top, below, down in zip(rows.starts, rows.ends, rows.weights, strict=True):
        done = below - top
        kept = rows.size - done
        for number, (left, right) in enumerate(zip(columns.starts, columns.ends, strict=True)):
            window = next(windows)
            if not pending.numel():
                pending = torch.zeros_like(window)
                shared = window.new_zeros(len(window), most_kept, columns.ends[-1])
            weights = (down[:, None] * columns.weights[number]).to(window.device)
            pending.addcmul_(window, weights)  # what several windows of this row add to the columns from `left` on
            block, over = pending[:, :, : right - left], shared[:, :, left:right]
            block[:, :kept_above] += over[:, :kept_above]
            over[:, :kept] = block[:, done:]
            yield Block(top, left, block[:, :done])
            rest = columns.size - (right - left)
            pending[:, :, :rest] = pending[:, :, right - left :].clone()
            pending[:, :, rest:] = 0
        kept_above = kept
