"""The tables of a study, built from trials that were not trained."""

import csv
import io
import math
import re
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from matplotlib.patches import Rectangle
from optuna import Study
from optuna.trial import TrialState, create_trial

from segmentation.classes import Classes
from studies import tracking
from studies.config import TuneConfig
from studies.search.constant_model import store_constant_model
from studies.search.log_study import _csv_table, _markdown_table
from studies.search.plan import Plan, make_plan
from studies.search.space import grid_points
from studies.search.study_plots import study_plots
from studies.search.summary import best_lines
from studies.search.trials import METRICS_KEPT, REASON, RUN, VAL_IMAGES, WARNING, only_class_found
from tests.segmentation.plots.drawn import legend


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
    study.set_user_attr(VAL_IMAGES, 213)
    header, *rows = _markdown_table(study, plan)
    (row,) = (row for row in rows if row.startswith("| **0 (best)** |"))
    assert "the report's val/loss" in header
    assert "| 0.679 | 0.817 |" in row
    name, figure = next(study_plots(study, plan))
    assert name == "loss"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ours", "original report"]

    study.set_user_attr(VAL_IMAGES, 66)  # a part of the images
    assert "report" not in next(iter(_markdown_table(study, plan)))
    for other in ({"dataset": "shapes"}, {"crop": 96}, {"score_crop": "whole", "crop_at": "random"}):
        study, plan = grid_study(TuneConfig(**{"dataset": "voc2007", "sampler": "grid"} | other))  # type: ignore[arg-type]
        study.set_user_attr(VAL_IMAGES, 213)
        assert "report" not in next(iter(_markdown_table(study, plan)))
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


def tied_study(**more: Any) -> tuple[Study, Plan]:
    """Four trials that predict background everywhere: equal mean IoU, and trial 2 has the lowest loss and ECE."""
    plan = make_plan(
        TuneConfig(
            sampler="grid", search="learning_rate=0.01|0.1,weight_decay=0|0.01", objective="val/mean_iou", **more
        )
    )
    study = optuna.create_study(direction="maximize")
    for values, loss, ece in zip(grid_points(plan.space), (0.9, 0.95, 0.8, 0.8), (0.313, 0.2, 0.014, 0.1), strict=True):
        metrics = {"epoch": 1, "val/loss": loss, "val/pixel_accuracy": 0.75, "val/mean_iou": 0.25, "val/ece": ece}
        study.add_trial(
            create_trial(
                value=0.25, params=values,
                distributions={name: dimension.distribution() for name, dimension in plan.space.items()},
                user_attrs={METRICS_KEPT: metrics, RUN: "0" * 32, WARNING: "finds only background"},
            )
        )  # fmt: skip
    pixels = [0] * 256
    pixels[:3] = [75, 15, 10]
    labels = Classes(("background", "cat", "dog"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    store_constant_model(study, SimpleNamespace(pixels_by_value=lambda: tuple(pixels), labels=labels))  # type: ignore[arg-type]
    return study, plan


def test_one_trial_is_best_in_text_table_and_every_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "logged_epochs", lambda *_: [])
    study, plan = tied_study()
    lines = list(best_lines(study, plan))
    assert lines[0].startswith("Best by val/mean_iou: trial 2, learning_rate=0.01,")
    assert "Trials 0, 1, 3 have" in lines[1]
    assert [row.split(" | ")[0] for row in _markdown_table(study, plan) if "(best)" in row] == ["| **2 (best)**"]
    drawn = dict(study_plots(study, plan))
    for name in ("loss", "pixel_accuracy", "ece", "mean_iou"):
        axes = drawn[name].axes[0]
        (box,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        assert (round(box.get_x() + 0.46), round(box.get_y() + 0.46)) == (0, 1), name
        assert legend(drawn[name]) == [f"val/{name} of trial 2, best by val/mean_iou"]


def test_a_study_that_beats_no_constant_prediction_says_so() -> None:
    """Oracle: entropy of 0.75, 0.15, 0.10 is 0.7306 nats; mean IoU of background everywhere is 0.75 / 3."""
    study, plan = tied_study()
    text = "\n".join(best_lines(study, plan))
    assert "Predicting background everywhere: loss 0.7306, pixel accuracy 0.7500, mean IoU 0.2500." in text
    assert "Warning: no trial beats predicting background everywhere in val/mean_iou" in text
    assert "Warning: trial 2 finds only background." in text
    table = "\n".join(_markdown_table(study, plan))
    assert table.count("complete, finds only background") == 4
    assert re.search(r"\| background everywhere \| – \| – \| – \| 0.7306 \| 0.7500 \| 0.2500 \|", table)
    better = {"epoch": 1, "val/loss": 0.5, "val/mean_iou": 0.3}
    study.add_trial(create_trial(value=0.3, user_attrs={METRICS_KEPT: better}))
    assert "no trial beats" not in "\n".join(best_lines(study, plan))


@pytest.mark.parametrize(
    ("ious", "only"),
    [
        ({"a": 0.5, "b": 0.0, "c": math.nan}, "a"),
        ({"a": 0.5, "b": 0.1}, None),
        ({"a": 0.5, "b": math.nan}, None),
        ({"a": 0.0, "b": 0.0}, None),
    ],
)
def test_a_trial_that_finds_one_class_only_is_flagged(ious: dict[str, float], only: str | None) -> None:
    assert only_class_found({f"val/iou/{name}": value for name, value in ious.items()} | {"val/loss": 1.0}) == only
