"""A trial over all folds: its value is the mean, and a finished fold is not trained again."""

import csv
import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna import Study
from optuna.trial import TrialState

from segmentation.errors import InputError
from studies.config import TrainConfig, TuneConfig
from studies.runs.training import TrainingResult, run_training
from studies.search import worker
from studies.search.folds import TrialResult, mean_result
from studies.search.plan import make_plan
from studies.search.storage import open_storage
from studies.search.study import run_study
from studies.search.trials import EPOCHS, RUN, counted_trials
from tests.conftest import write_own_data
from tests.studies.search.conftest import tiny


def search(root: Path, **more: Any) -> TuneConfig:
    values = {"epochs": 2, "study_name": "s", "folds": 2, "val_split": "part", "n_trials": 2, "pruner": "none"}
    return TuneConfig(**tiny(root, **values | {"sampler": "random", "search": "learning_rate=0.001..0.1"} | more))


def trials(config: TuneConfig) -> list[optuna.trial.FrozenTrial]:
    with open_storage(config, heartbeat=60) as storage:
        study: Study = optuna.load_study(study_name="s", storage=storage)
        return counted_trials(study)


def test_the_mean_is_over_the_folds_that_measured_a_metric() -> None:
    folds = [
        TrialResult("a", 3, 2, {"val/loss": 0.5, "val/ece": 0.1, "val/ece_low": 0.0, "val/iou/cat": 0.25}),
        TrialResult("b", 4, 4, {"val/loss": 0.9, "val/ece": 0.3, "val/ece_low": 0.2}),
        TrialResult("c", 4, 3, {"val/loss": 0.4, "val/ece": 0.2, "val/ece_low": 0.1, "val/iou/cat": 0.75}),
    ]
    mean = mean_result(folds)
    assert (mean.run_id, mean.epochs, mean.kept_epoch) == ("a", 11, 3)
    assert mean.kept["val/loss"] == pytest.approx(np.mean([0.5, 0.9, 0.4]))
    assert mean.kept["val/loss_std"] == pytest.approx(np.std([0.5, 0.9, 0.4], ddof=1))
    assert mean.kept["val/iou/cat"] == 0.5
    assert "val/ece_low" not in mean.kept
    assert mean_result(folds[:1]) == folds[0]


def test_the_budget_counts_the_epochs_of_all_folds() -> None:
    plan = make_plan(TuneConfig(epochs=10, folds=5))
    assert plan.trial_epochs == 50
    assert plan.max_epochs == 400
    assert "mean over 5 folds" in plan.description()
    assert make_plan(TuneConfig(epochs=10, folds=5, fold=1)).trial_epochs == 10
    with pytest.raises(InputError, match="max_epochs_total=49 is less than one trial needs .epochs=10, folds=5."):
        make_plan(TuneConfig(epochs=10, folds=5, max_epochs_total=49))


@pytest.mark.slow
def test_a_trial_resumes_in_the_fold_in_which_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = search(write_own_data(tmp_path, train=6, val=2), epochs=1)
    trained: list[tuple[float, int]] = []

    def stopped_in_second_fold(config: TrainConfig, *arguments: Any) -> TrainingResult:
        trained.append((config.learning_rate, config.fold or 0))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return run_training(config, *arguments)

    monkeypatch.setattr(worker, "run_training", stopped_in_second_fold)
    with pytest.raises(KeyboardInterrupt):
        run_study(config)
    run_study(config)
    assert [fold for _, fold in trained] == [0, 1, 1, 0, 1], "the finished fold was trained again"
    assert trained[0][0] == trained[1][0] == trained[2][0]

    found = trials(config)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    parent = mlflow.get_run(found[0].user_attrs[RUN]).data.tags["mlflow.parentRunId"]
    runs = MlflowClient().search_runs(
        [mlflow.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert sorted(run.data.params["fold"] for run in runs) == ["0", "0", "1", "1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    text = mlflow.artifacts.load_text(f"runs:/{parent}/study/trials.csv")
    rows = {int(row["trial"]): row for row in csv.DictReader(io.StringIO(text))}
    printed = capsys.readouterr().out
    for trial in found:
        rate = mlflow.get_run(trial.user_attrs[RUN]).data.params["learning_rate"]
        losses = [
            min(point.value for point in MlflowClient().get_metric_history(run.info.run_id, "val/loss"))
            for run in runs
            if run.data.params["learning_rate"] == rate
        ]
        assert len(losses) == 2
        assert trial.value == pytest.approx(np.mean(losses), abs=1e-9)
        assert float(rows[trial.number]["val/loss"]) == pytest.approx(np.mean(losses), abs=1e-9)
        assert float(rows[trial.number]["val/loss_std"]) == pytest.approx(np.std(losses, ddof=1), abs=1e-9)
        assert trial.user_attrs[EPOCHS] == 2
    best = min(found, key=lambda trial: trial.value or 0)
    assert f"Best by val/loss: trial {best.number}" in printed
    assert "--folds 2 --fold 0" in printed


@pytest.mark.slow
def test_a_trial_is_pruned_in_its_first_fold_only(tmp_path: Path) -> None:
    config = search(
        write_own_data(tmp_path, train=6, val=2), sampler="grid", search="learning_rate=0.1|0.05|0.0001",
        n_trials=None, pruner="halving", plot_every=1,
    )  # fmt: skip
    run_study(config)
    for trial in trials(config):
        assert max(trial.intermediate_values) == 1
        assert trial.user_attrs[EPOCHS] == (4 if trial.state == TrialState.COMPLETE else 1)
