"""Names of runs."""

import pytest

from studies.config import TrainConfig
from studies.runs.names import run_name

RUN = "78fa4e4c302d4cf9a663e8d19e6be323"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("none", "none"),
        ("coco", "coco"),
        (RUN, "from 78fa4e4c"),
        (f"runs:/{RUN}", "from 78fa4e4c"),
        (f"checkpoints/{RUN}/best.pt", "from 78fa4e4c"),
        ("models:/streets/1", "from streets/1"),
        ("models:/streets@newest", "from streets@newest"),
        ("/a/long/way/to/weights.pt", "from weights.pt"),
        ("weights.pt", "from weights.pt"),
    ],
)
def test_a_name_shows_the_starting_weights(weights: str, expected: str) -> None:
    config = TrainConfig(weights=weights, dataset="camvid", learning_rate=0.00001, weight_decay=0.05)
    assert run_name(config) == f"fcn_resnet50 · {expected} · camvid · lr 1e-05 · wd 0.05"
