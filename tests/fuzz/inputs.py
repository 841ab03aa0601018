"""How many inputs each door is given, and from which seed."""

import os
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, seed, settings

TOTAL = int(os.environ.get("FUZZ_INPUTS", "0"))
"""Inputs of `make fuzz` together; 0 is `make test`."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))


class Share(NamedTuple):
    """Of one door's inputs."""

    few: int
    """In `make test`."""
    percent: float
    """Of the inputs of `make fuzz`."""

    @property
    def count(self) -> int:
        """Now."""
        return round(TOTAL * self.percent / 100) if TOTAL else self.few


SHARES = {
    "pictures": Share(120, 14),
    "masks": Share(120, 10),
    "pictures made up": Share(60, 4),
    "pictures to predict": Share(80, 9),
    "folders of predictions": Share(8, 0.5),
    "split lists": Share(60, 8),
    "class files": Share(80, 8),
    "cache folders": Share(60, 6),
    "checkpoints": Share(80, 10),
    "checkpoints made up": Share(40, 3),
    "exported networks": Share(50, 6),
    "scores": Share(50, 6),
    "scores made up": Share(30, 2),
    "score records": Share(60, 4.5),
    "model metadata": Share(60, 4),
    "requests": Share(100, 5),
    "requests made up": Share(80, 4),
    "command lines": Share(25, 1),
    "values": Share(80, 4),
    "variants, search and limits": Share(60, 3),
}
"""Every door, by name. Of hypothesis's shares some is never used, where it finds no further input."""


def made_up(door: str):
    """Decorates a test that is `given` inputs: as many as the door has, from the seed."""

    def decorated(test):
        return seed(SEED)(
            settings(
                max_examples=SHARES[door].count,
                deadline=None,
                database=None,
                derandomize=not TOTAL,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )(test)
        )

    return decorated
