"""The best trial by the objectives, the constraint, and the metrics that break ties."""

import optuna
import pytest
from optuna import Study
from optuna.trial import create_trial

from studies.search.trials import METRICS_KEPT, best_trial, pareto_front


@pytest.mark.parametrize(
    ("violations", "higher_is_better", "best"),
    [
        ((None, None, None), False, 0),
        ((None, None, None), True, 2),
        ((0.1, -0.1, 0.0), False, 1),
        ((0.1, -0.1, 0.0), True, 2),
        ((0.3, 0.2, 0.1), False, 2),
    ],
)
def test_feasible_trials_come_first(violations: tuple[float | None, ...], higher_is_better: bool, best: int) -> None:
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize")
    for value, violation in zip((1.0, 2.0, 3.0), violations, strict=True):
        if violation is None:
            study.add_trial(create_trial(value=value))
            continue
        trial = study.ask()
        trial.set_constraint("val/ece<=0.08", violation)
        study.tell(trial, value)
    found = best_trial(study)
    assert found is not None
    assert found.number == best


def with_trials(directions: list[str], *trials: tuple[list[float], float, float]) -> Study:
    """A study whose trials have these values of the objectives, losses and ECEs."""
    study = optuna.create_study(directions=directions)
    for values, loss, ece in trials:
        kept = {"epoch": 1, "val/loss": loss, "val/ece": ece}
        study.add_trial(create_trial(values=values, user_attrs={METRICS_KEPT: kept}))
    return study


@pytest.mark.parametrize(
    ("directions", "trials", "best"),
    [
        (["maximize"], [([0.2], 0.9, 0.31), ([0.2], 0.9, 0.2), ([0.2], 0.8, 0.014), ([0.2], 0.8, 0.1)], 2),
        (["maximize"], [([0.2], 0.9, 0.3), ([0.2], 0.9, 0.3)], 0),
        (["maximize"], [([0.2], 0.1, 0.1), ([0.2 + 1e-12], 0.9, 0.9)], 1),
        (["minimize"], [([0.5], 0.5, 0.3), ([0.5], 0.5, 0.2)], 1),
        (["maximize", "minimize"], [([0.2, 0.3], 0.1, 0.3), ([0.2, 0.1], 0.9, 0.1), ([0.1, 0.0], 0.0, 0.0)], 1),
    ],
)
def test_equal_objectives_are_decided_by_loss_then_ece_then_number(
    directions: list[str], trials: list[tuple[list[float], float, float]], best: int
) -> None:
    study = with_trials(directions, *trials)
    found = best_trial(study)
    assert found is not None
    assert found.number == best
    assert best in [trial.number for trial in pareto_front(study)]


def test_the_front_of_one_objective_is_its_best_trial() -> None:
    study = with_trials(["maximize"], ([0.2], 0.9, 0.31), ([0.2], 0.8, 0.1))
    assert [trial.number for trial in pareto_front(study)] == [1]


def test_without_complete_trials_there_is_no_best() -> None:
    study = optuna.create_study()
    study.ask()
    assert best_trial(study) is None
    assert pareto_front(study) == []
