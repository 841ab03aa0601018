"""Number of inputs for each entry, and the seed."""

import os
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, seed, settings

TOTAL = int(os.environ.get("FUZZ_INPUTS", "0"))
"""Number of all inputs of `make fuzz`; 0 in `make test`."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))


class Inputs(NamedTuple):
    """Number of inputs of one entry."""

    few: int
    """Number in `make test`."""
    percent: float
    """Percentage of the inputs of `make fuzz`."""

    @property
    def count(self) -> int:
        """Number in this session."""
        return round(TOTAL * self.percent / 100) if TOTAL else self.few


ENTRIES = {
    "images": Inputs(120, 10),
    "masks": Inputs(120, 7),
    "colour masks": Inputs(60, 3),
    "generated images": Inputs(60, 4),
    "images to predict": Inputs(80, 7),
    "images of several channels": Inputs(80, 5),
    "folders of predictions": Inputs(8, 0.5),
    "split lists": Inputs(60, 6),
    "class files": Inputs(80, 8),
    "annotation files": Inputs(80, 6),
    "annotations made up": Inputs(60, 4),
    "cache folders": Inputs(60, 6),
    "checkpoints": Inputs(80, 8),
    "checkpoints made up": Inputs(40, 3),
    "model weights": Inputs(50, 6),
    "scores": Inputs(50, 6),
    "scores made up": Inputs(30, 2),
    "score records": Inputs(60, 4.5),
    "model metadata": Inputs(60, 4),
    "requests": Inputs(100, 5),
    "requests made up": Inputs(80, 4),
    "command lines": Inputs(25, 1),
    "values": Inputs(80, 4),
    "variants, search and limits": Inputs(60, 3),
}
"""Every entry by its name. Hypothesis stops early where it finds no further input."""


def made_up(door: str):
    """Decorate a test that is `given` inputs, so that it gets as many as the entry has, from the seed."""

    def decorated(test):
        return seed(SEED)(
            settings(
                max_examples=ENTRIES[door].count,
                deadline=None,
                database=None,
                derandomize=not TOTAL,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )(test)
        )

    return decorated
