"""Objectives know their direction, and a limit knows how far a training lies beyond it."""

import pytest

from segmentation.errors import InputError
from segmentation.metrics import METRICS
from studies.config import TuneConfig
from studies.search.goals import FAR, Goal, Limit, goals, limit


def test_every_metric_with_a_better_end_can_be_an_objective() -> None:
    for name, about in METRICS.items():
        if about.higher_is_better is not None:
            assert goals(TuneConfig(objective=f"val/{name}")) == (Goal(f"val/{name}", about.higher_is_better),)
    assert goals(TuneConfig(objective="train/loss")) == (Goal("train/loss", False),)
    assert goals(TuneConfig(objective="val/iou/road")) == (Goal("val/iou/road", True),)


def test_several_objectives() -> None:
    assert goals(TuneConfig(objectives="val/mean_iou, val/ece")) == (Goal("val/mean_iou", True), Goal("val/ece", False))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "val/los"}, "objective='val/los' is not known. Did you mean 'val/loss'?"),
        ({"objective": "val/confidence_gap"}, "objective='val/confidence_gap' is not known"),
        ({"objectives": "val/ece,val/ece"}, "names a metric twice"),
    ],
)
def test_what_is_no_objective_is_told(values: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as told:
        goals(TuneConfig(**values))
    assert message in str(told.value)


def test_a_limit_tells_how_far_beyond() -> None:
    found = limit(TuneConfig(constraint="val/ece<=0.08"))
    assert found == Limit("val/ece", True, 0.08)
    assert str(found) == "val/ece<=0.08"
    assert found.excess({"val/ece": 0.1}) == pytest.approx(0.02)
    assert found.excess({"val/ece": 0.05}) == pytest.approx(-0.03)
    assert found.excess({}) == FAR
    at_least = limit(TuneConfig(constraint=" val/pixel_accuracy >= 0.8 "))
    assert at_least is not None
    assert at_least.excess({"val/pixel_accuracy": 0.7}) == pytest.approx(0.1)
    assert limit(TuneConfig()) is None
    assert limit(TuneConfig(constraint="val/confidence_gap>=-0.05")) == Limit("val/confidence_gap", False, -0.05)


@pytest.mark.parametrize(
    "text",
    [
        "val/ece", "val/ece<0.1", "val/ece<=", "val/ece<=a", "val/ece<=nan", "val/loss>=-inf", "ece<=0.1", "<=0.1",
    ],
)  # fmt: skip
def test_a_limit_that_is_not_understood_is_told(text: str) -> None:
    with pytest.raises(InputError, match="constraint="):
        limit(TuneConfig(constraint=text))


def test_a_figure_that_was_not_measured_is_told() -> None:
    with pytest.raises(InputError, match="measured no such figure"):
        Goal("val/iou/road", True).value({"val/loss": 1.0})
