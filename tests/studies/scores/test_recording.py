"""What a run says in words, and the rules it keeps beside its figures."""

import math

import pytest

from segmentation.scoring.bootstrap import Interval
from studies.scores.recording import NoiseFloor, in_words, small_print

CHANCE = (0.001, 0.004)
NOTHING = (math.nan, math.nan)


def said(gap: float, ends: tuple[float, float], ece: float, chance: tuple[float, float], images: int = 101) -> str:
    intervals = {"confidence_gap": Interval(*ends)}
    return in_words({"confidence_gap": gap, "ece": ece}, intervals, NoiseFloor(*chance), images)


@pytest.mark.parametrize(
    ("gap", "ends", "ece", "chance", "expected"),
    [
        (-0.03, (-0.04, -0.02), 0.03, CHANCE, "Over-confident by 0.0300 on average (accuracy - confidence -0.0300"),
        (0.02, (0.01, 0.03), 0.02, CHANCE, "Under-confident by 0.0200 on average (accuracy - confidence +0.0200"),
        (0.001, (-0.01, 0.01), 0.03, CHANCE, "Neither over- nor under-confident as far as 101 images can tell"),
        (0.001, (-0.01, 0.01), 0.03, CHANCE, "Its ECE of 0.0300 is above the noise floor"),
        (0.001, (-0.01, 0.01), 0.003, CHANCE, "within the noise floor, what a perfectly calibrated"),
        (math.nan, NOTHING, math.nan, NOTHING, "Nothing can be said: no pixel has a class."),
    ],
)  # fmt: skip
def test_the_lean_is_said_in_words_and_sign(
    gap: float, ends: tuple[float, float], ece: float, chance: tuple[float, float], expected: str
) -> None:
    assert expected in said(gap, ends, ece, chance)


def test_few_images_are_mentioned() -> None:
    assert said(0.02, (0.01, 0.03), 0.02, CHANCE, 8).endswith("With only 8 images, all intervals are too narrow.")
    assert "at most 0.0040 in 95 % of cases" in said(0.02, (0.01, 0.03), 0.02, CHANCE)


def test_the_small_print_repeats_the_rules() -> None:
    rules = {"images": 101, "pixels": 1625786, "bins": 10, "interpolation": "bilinear", "precision": "float32"}
    assert small_print(rules | {"resolution": [96, 128]}) == (
        "101 images, 1,625,786 pixels · 10 bins (a, b] · size 128 × 96, bilinear · void not counted · float32"
    )
    assert "size each image's own, bilinear" in small_print(rules | {"resolution": "each image's own"})
