"""How often each image is drawn for a resample, in one compiled pass over all draws."""

import numpy as np

from segmentation.scoring.compiling import compiled


@compiled("void(u1[:], i8[:], u1[:,:])")
def count_draws(places: np.ndarray, drawn: np.ndarray, times: np.ndarray) -> None:
    """Add to `times` how often each place is drawn.

    Args:
        places: all draws of the first resample, then of the second, and so on, below `b`.
        drawn: how many each resample has, `(R,)`.
        times: what is added to, `(R, b)`.
    """
    draw = 0
    for resample in range(len(drawn)):
        for _ in range(drawn[resample]):
            times[resample, places[draw]] += 1
            draw += 1
