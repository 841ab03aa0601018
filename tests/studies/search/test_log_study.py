"""The tables of a study, built from trials that were not trained."""

import csv
import io
import re

import optuna
from optuna import Study
from optuna.trial import TrialState, create_trial

from studies.config import TuneConfig
from studies.search.log_study import _csv_table, _markdown_table
from studies.search.plan import Plan, make_plan
from studies.search.study_plots import study_plots
from studies.search.trials import METRICS_KEPT, REASON, RUN


def grid_study(config: TuneConfig) -> tuple[Study, Plan]:
    """A grid study with one complete trial at a learning rate of 0.01 without weight decay, and one failed trial."""
    plan, study = make_plan(config), optuna.create_study()
    metrics = {"epoch": 1, "val/loss": 0.5, "val/pixel_accuracy": 0.8, "val/ece": 0.1}
    study.add_trial(
        create_trial(
            value=0.5, params={"learning_rate": 0.01, "weight_decay": 0.0},
            distributions={name: dimension.distribution() for name, dimension in plan.space.items()},
            user_attrs={METRICS_KEPT: metrics | {"val/ece_low": 0.05, "val/ece_high": 0.2}, RUN: "0" * 32},
        )
    )  # fmt: skip
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "no checkpoint, no trial"}))
    return study, plan


def test_the_original_report_stands_beside_the_same_grid_and_no_other() -> None:
    study, plan = grid_study(TuneConfig(dataset="voc2007", sampler="grid"))
    header, *rows = _markdown_table(study, plan)
    (row,) = (row for row in rows if row.startswith("| 0 |"))
    assert "the report's val/loss" in header
    assert "| 0.679 | 0.817 |" in row
    name, figure = next(study_plots(study, plan))
    assert name == "loss"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ours", "original report"]

    study, plan = grid_study(TuneConfig(dataset="shapes", sampler="grid"))
    assert "report" not in next(iter(_markdown_table(study, plan)))
    _, figure = next(study_plots(study, plan))
    assert figure.axes[0].get_title() == ""


def test_tables_hold_metrics_intervals_and_reasons() -> None:
    study, plan = grid_study(TuneConfig(dataset="shapes", sampler="grid", constraint="val/mce<=0.5"))
    text = "\n".join(_markdown_table(study, plan))
    assert re.search(r"\| 0.1000 \[0.0500, 0.2000\] \| – \| 1 \| complete \|", text)
    complete, failed = csv.DictReader(io.StringIO(_csv_table(study, plan)))
    assert (complete["state"], complete["val/loss"], complete["learning_rate"]) == ("complete", "0.5", "0.01")
    assert (failed["state"], failed["reason"], failed["val/loss"]) == ("fail", "no checkpoint, no trial", "")
