"""Bins of the top label's log-odds, for metrics that need pixels in order of confidence.

Most pixels of a confident model fall into the last of equal-width bins of confidence. The log-odds ln(p / (1 - p)) of
the confidence p separate these pixels. They are computed from the other classes' exponentials, so that they do not
saturate where p rounds to 1. Bins are 0.02 wide near log-odds of 0 and 1 % of the value far from it, which keeps the
relative error of the area under the risk-coverage curve below 0.1 % at any temperature.
"""

import math

import numpy as np
import torch

LOG_ODDS_BINS = 1000
SCALE = 2.0
"""Log-odds up to which bins are about equally wide; above it their width is proportional to the log-odds."""
LOWEST = -5.6
"""No confidence has lower log-odds: the top label of 255 equally probable classes has -5.54."""
HIGHEST = 1e4
"""All log-odds above this are in the last bin."""
FIRST = math.asinh(LOWEST / SCALE)
STEP = (math.asinh(HIGHEST / SCALE) - FIRST) / LOG_ODDS_BINS

SMALLEST_ODDS = np.float32(2.0**-100)
"""Odds of the other classes (sum of their exponentials over the top label's) that float32 represents precisely."""
DROPPED_BITS = 15
"""Low bits of a float32 that the table of bins ignores; the remaining bits resolve odds to 0.4 %."""
_IDEAL = SCALE * np.sinh(FIRST + STEP * np.arange(1, LOG_ODDS_BINS))
_CELLS = np.exp(-np.clip(_IDEAL, None, 80)).astype(np.float32).view(np.int32) >> DROPPED_BITS
_ABOVE = np.searchsorted(_CELLS[::-1], np.arange(256 << 23 - DROPPED_BITS), "right")
BIN_OF_ODDS = (LOG_ODDS_BINS - 1 - _ABOVE).astype(np.int16)
"""Bin by the high bits of the odds of the other classes, a float32 of at least `SMALLEST_ODDS`."""
EDGES = 1e-12 + np.where(
    np.exp(-_IDEAL) < SMALLEST_ODDS, _IDEAL, -np.log((_CELLS << DROPPED_BITS).view(np.float32).astype(np.float64))
)
"""`(999,)` upper edges of all bins except the last; where the table is used, edges of its cells.

The small addend decides for odds on an edge, such as 2, whose logarithm differs in the last digit between libraries.
"""


def bin_of_log_odds(log_odds: torch.Tensor) -> torch.Tensor:
    """Index of the bin of each value, int64; NaN is in the last bin."""
    edges = torch.from_numpy(EDGES).to(log_odds.device, log_odds.dtype)
    return torch.bucketize(log_odds, edges)
