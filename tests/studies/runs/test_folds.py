"""Cross-validation with `models`: one run for each fold, one row for each setting."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from segmentation.data import load_split
from segmentation.errors import InputError
from segmentation.metrics import COMPARED
from studies.config import CalibrateConfig, EvaluateConfig, ModelsConfig, TrainConfig
from studies.runs.calibration import run_calibration
from studies.runs.evaluation import run_evaluation
from studies.runs.models import run_models
from studies.runs.training import run_training
from studies.runs.variants import each_fold
from tests import tiny_network
from tests.conftest import write_own_data

NETWORK = tiny_network.NAME
FOLDS = 3


def settings(root: Path, **more: Any) -> ModelsConfig:
    values: dict[str, Any] = {
        "dataset": "folder", "data_dir": str(root), "resize": 32, "crop": 32, "device": "cpu", "epochs": 1,
        "batch_size": 4, "examples": 1, "log_model": False, "plot_every": 0, "folds": FOLDS, "val_split": "part",
        "variants": f"{NETWORK} learning_rate=0.01, {NETWORK} learning_rate=0.1", "experiment": "folds",
    }  # fmt: skip
    return ModelsConfig(**values | more)


def test_each_fold_is_a_run_of_its_own() -> None:
    config = TrainConfig(folds=FOLDS, run_name="a")
    assert [(each.fold, each.run_name) for each in each_fold(config)] == [
        (0, "fold 0 · a"), (1, "fold 1 · a"), (2, "fold 2 · a"),
    ]  # fmt: skip
    one = TrainConfig(folds=FOLDS, fold=1)
    assert list(each_fold(one)) == [one]
    assert list(each_fold(TrainConfig())) == [TrainConfig()]


def test_train_needs_a_fold(own_data: Path) -> None:
    config = TrainConfig(dataset="folder", data_dir=str(own_data), folds=2, device="cpu")
    with pytest.raises(InputError, match="folds=2 needs fold, .* from 0 to 1, .*`models` and `tune`"):
        run_training(config)


class Validated(NamedTuple):
    """A cross-validation of two settings."""

    config: ModelsConfig
    run_ids: list[str]
    parent: str
    printed: str


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, store: str) -> Validated:
    folder = tmp_path_factory.mktemp("folds")
    config = settings(
        write_own_data(folder, train=8, val=2), cache_dir=str(folder / "cache"), checkpoint_dir=str(folder / "kept")
    )
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        run_ids = run_models(config)
        parent = mlflow.get_run(run_ids[0]).data.tags["mlflow.parentRunId"]
    return Validated(config, run_ids, parent, printed.getvalue())


@pytest.mark.slow
def test_the_folds_of_a_setting_cover_all_images_once(validated: Validated) -> None:
    runs = [mlflow.get_run(run_id) for run_id in validated.run_ids]
    assert [run.data.params["fold"] for run in runs] == ["0", "1", "2"] * 2
    parts = [load_split(each, "part").names for each in each_fold(validated.config)]
    assert sorted(name for names in parts for name in names) == sorted(
        load_split(settings(Path(validated.config.data_dir), folds=None), "train").names
    )


@pytest.mark.slow
def test_tables_have_mean_and_deviation_over_the_folds(validated: Validated) -> None:
    def artifact(name: str) -> str:
        return str(mlflow.artifacts.load_text(f"runs:/{validated.parent}/comparison/{name}"))

    record = json.loads(artifact("folds.json"))
    rows = list(csv.DictReader(io.StringIO(artifact("folds.csv"))))
    markdown = artifact("folds.md")
    for setting, run_ids in zip(
        record["settings"], (validated.run_ids[:FOLDS], validated.run_ids[FOLDS:]), strict=True
    ):
        for metric in COMPARED:
            logged = [MlflowClient().get_metric_history(run_id, f"val/{metric}")[-1].value for run_id in run_ids]
            mean, std = np.mean(logged), np.std(logged, ddof=1)
            assert setting["metrics"][metric] == pytest.approx(mean, abs=1e-9)
            assert setting["std"][metric] == pytest.approx(std, abs=1e-9)
            assert f"{mean:.4f} ± {std:.4f}" in markdown
            assert f"{mean:.4f} ± {std:.4f}" in validated.printed
            found = {
                row["fold"]: float(row["value"])
                for row in rows
                if (row["setting"], row["metric"]) == (setting["name"], metric)
            }
            assert found["mean"] == pytest.approx(mean, abs=1e-9)
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {record['settings'][0]['name'][:4]}")]
    assert len([line for line in lines if "3 of 3" in line]) == 2, "one row for each setting"


@pytest.mark.slow
def test_finished_folds_are_not_trained_again(
    validated: Validated, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(validated.config.checkpoint_dir).parent)
    assert run_models(validated.config) == validated.run_ids
    assert capsys.readouterr().out.count("Already trained") == 2 * FOLDS


@pytest.mark.slow
def test_a_held_out_validation_split_is_that_of_the_run_ever_after(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=12, val=3)
    other = tmp_path / "other"
    shutil.copytree(root, other)
    shutil.rmtree(root / "val")
    config = TrainConfig(
        dataset="folder", data_dir=str(root), resize=32, crop=32, device="cpu", epochs=1, batch_size=4, examples=0,
        log_model=False, plot_every=0, model=NETWORK, val_fraction=0.34, calibration_fraction=0.4,
    )  # fmt: skip
    run_id = run_training(config).run_id
    logged = mlflow.get_run(run_id).data.metrics
    checkpoint = str(Path(config.checkpoint_dir) / run_id / "best.pt")
    common: dict[str, Any] = {"model_uri": checkpoint, "device": "cpu", "examples": 0}
    assert run_evaluation(EvaluateConfig(**common))["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-6)
    fit = run_calibration(CalibrateConfig(run_id=checkpoint, device="cpu", examples=0))
    assert fit.temperature is not None
    run_evaluation(EvaluateConfig(**common, data_dir=str(other)))  # a data set with a validation split of its own
    gone = load_split(config, "val").names[0]
    for kind in ("images", "masks"):
        (file,) = (root / "train" / kind).glob(f"{gone}.*")
        file.unlink()
    for call in (
        lambda: run_evaluation(EvaluateConfig(**common)),
        lambda: run_calibration(CalibrateConfig(run_id=checkpoint, device="cpu")),
    ):
        with pytest.raises(InputError, match="split=(val|train): the images in .* have changed since run"):
            call()
