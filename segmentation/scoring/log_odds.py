"""Bins of the top label's log-odds, fine wherever pixels lie: for metrics that need pixels in order of confidence.

Equal-width bins of confidence put most pixels of a confident model into the last one. The log-odds ln(p / (1 - p)) of
the confidence p tell these pixels apart; they are computed from the other classes' exponentials, so that they do not
saturate where p rounds to 1. The bins are 0.02 wide near log-odds of 0 and grow to 1 % of the value far from it, which
keeps the relative error of the area under the risk-coverage curve below 0.1 % at any temperature.
"""

import math

import numpy as np
import torch

LOG_ODDS_BINS = 1000
SCALE = 2.0
"""Log-odds up to which the bins are about equally wide; beyond, their width is proportional to the log-odds."""
LOWEST = -5.6
"""No confidence has lower log-odds: the top label of 255 equally probable classes has -5.54."""
HIGHEST = 1e4
"""Log-odds above this are all in the last bin."""
FIRST = math.asinh(LOWEST / SCALE)
STEP = (math.asinh(HIGHEST / SCALE) - FIRST) / LOG_ODDS_BINS

SMALLEST_ODDS = np.float32(2.0**-100)
"""Odds of the other classes (sum of their exponentials over the top label's) that float32 still holds precisely."""
DROPPED_BITS = 15
"""Bits of a float32 that a table of bins need not look at: what is left tells odds apart that differ by 0.4 %."""
_IDEAL = SCALE * np.sinh(FIRST + STEP * np.arange(1, LOG_ODDS_BINS))
_CELLS = np.exp(-np.clip(_IDEAL, None, 80)).astype(np.float32).view(np.int32) >> DROPPED_BITS
_ABOVE = np.searchsorted(_CELLS[::-1], np.arange(256 << 23 - DROPPED_BITS), "right")
BIN_OF_ODDS = (LOG_ODDS_BINS - 1 - _ABOVE).astype(np.int16)
"""Bin by the upper bits of the odds of the other classes, a float32 of at least `SMALLEST_ODDS`."""
EDGES = np.where(
    np.exp(-_IDEAL) < SMALLEST_ODDS, _IDEAL, -np.log((_CELLS << DROPPED_BITS).view(np.float32).astype(np.float64))
)
"""`(999,)` upper edges of all bins but the last; where the table decides, they are edges of its cells."""


def bin_of_log_odds(log_odds: torch.Tensor) -> torch.Tensor:
    """Index of the bin of each value, int64; NaN is in the last."""
    edges = torch.from_numpy(EDGES).to(log_odds.device, log_odds.dtype)
    return torch.bucketize(log_odds, edges)
