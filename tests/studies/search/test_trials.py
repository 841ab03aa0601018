"""The best trial by an objective and a constraint."""

import optuna
import pytest
from optuna.trial import create_trial

from studies.search.objectives import Objective
from studies.search.trials import best_trial


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
    found = best_trial(study, Objective("val/loss", higher_is_better))
    assert found is not None
    assert found.number == best


def test_without_complete_trials_there_is_no_best() -> None:
    study = optuna.create_study()
    study.ask()
    assert best_trial(study, Objective("val/loss", False)) is None
