"""Objectives know their direction, and a constraint measures its violation."""

import pytest

from segmentation.errors import InputError
from segmentation.metrics import METRICS
from studies.config import TuneConfig
from studies.search.objectives import FAR, Constraint, Objective, read_constraint, read_objectives


def test_every_metric_with_a_direction_can_be_an_objective() -> None:
    directions = {f"val/{name}": about.higher_is_better for name, about in METRICS.items()}
    directions |= {"train/loss": False, "val/iou/road": True}
    for name, higher_is_better in directions.items():
        if higher_is_better is not None:
            assert read_objectives(TuneConfig(objective=name)) == (Objective(name, higher_is_better),)


def test_several_objectives() -> None:
    found = read_objectives(TuneConfig(objectives="val/mean_iou, val/ece"))
    assert found == (Objective("val/mean_iou", True), Objective("val/ece", False))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "val/los"}, "objective='val/los' .*'val/loss'"),
        ({"objective": "val/confidence_gap"}, "objective='val/confidence_gap'"),
        ({"objectives": "val/ece,val/ece"}, "objectives=val/ece,val/ece"),
    ],
)
def test_wrong_objectives_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_objectives(TuneConfig(**values))


def test_a_constraint_measures_its_violation() -> None:
    found = read_constraint(TuneConfig(constraint="val/ece<=0.08"))
    assert found == Constraint("val/ece", True, 0.08)
    assert str(found) == "val/ece<=0.08"
    assert found.violation({"val/ece": 0.1}) == pytest.approx(0.02)
    assert found.violation({"val/ece": 0.05}) == pytest.approx(-0.03)
    assert found.violation({}) == FAR
    at_least = read_constraint(TuneConfig(constraint=" val/pixel_accuracy >= 0.8 "))
    assert at_least is not None
    assert at_least.violation({"val/pixel_accuracy": 0.7}) == pytest.approx(0.1)
    assert read_constraint(TuneConfig()) is None
    without_direction = read_constraint(TuneConfig(constraint="val/confidence_gap>=-0.05"))
    assert without_direction == Constraint("val/confidence_gap", False, -0.05)


@pytest.mark.parametrize(
    "text",
    [
        "val/ece", "val/ece<0.1", "val/ece<=", "val/ece<=a", "val/ece<=nan", "val/loss>=-inf", "ece<=0.1", "<=0.1",
    ],
)  # fmt: skip
def test_wrong_constraints_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="constraint="):
        read_constraint(TuneConfig(constraint=text))


def test_a_metric_that_was_not_measured_is_an_error() -> None:
    for metrics in ({"val/loss": 1.0}, {"val/iou/road": float("nan")}):
        with pytest.raises(InputError, match="objective=val/iou/road"):
            Objective("val/iou/road", True).value(metrics)
