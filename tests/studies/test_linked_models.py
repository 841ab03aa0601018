"""Runs are linked to the logged model they use, by version; models with missing files are reported."""

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.config import CalibrateConfig, EvaluateConfig, PredictConfig
from studies.runs.calibration import run_calibration
from studies.runs.evaluation import run_evaluation
from studies.runs.prediction import run_prediction
from studies.tracking.artifact_folders import missing_files
from tests.conftest import last_run
from tests.studies.conftest import Trained

pytestmark = pytest.mark.slow

ALIASED, VERSION = "models:/first-seed@first", "models:/first-seed/1"


def model_of(run_id: str) -> str:
    (output,) = mlflow.get_run(run_id).outputs.model_outputs
    return str(output.model_id)


def images(two_seeds: Trained) -> str:
    return str(Path(two_seeds.configs[0].data_dir) / "val/images/0.jpg")


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "predict"])
def test_a_run_that_uses_a_model_is_linked_to_it(two_seeds: Trained, command: str) -> None:
    tag, metrics = {"evaluate": "evaluated", "calibrate": "calibrated", "predict": "predicted_with"}[command], {}
    cache = two_seeds.configs[0].cache_dir
    if command == "evaluate":
        metrics = run_evaluation(EvaluateConfig(model_uri=ALIASED, device="cpu", examples=0, cache_dir=cache))
    elif command == "calibrate":
        run_calibration(CalibrateConfig(run_id=ALIASED, device="cpu", examples=0, cache_dir=cache))
    else:
        run_prediction(PredictConfig(model_uri=ALIASED, images=images(two_seeds), device="cpu"))
    run, model_id = mlflow.get_run(last_run().info.run_id), model_of(two_seeds.run_ids[0])
    assert run.data.tags[tag] == VERSION
    assert run.data.params["run_id" if command == "calibrate" else "model_uri"] == ALIASED
    assert [each.model_id for each in run.inputs.model_inputs] == [model_id]
    if command == "evaluate":
        shown = [each for each in MlflowClient().get_logged_model(model_id).metrics if each.run_id == run.info.run_id]
        assert {each.key: each.value for each in shown}["val/ece"] == pytest.approx(metrics["val/ece"])
        (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
        assert {(each.dataset_name, each.dataset_digest) for each in shown} == {(dataset.name, dataset.digest)}


def test_a_run_that_uses_a_checkpoint_is_not_linked(two_seeds: Trained) -> None:
    run_prediction(PredictConfig(model_uri=two_seeds.checkpoint, images=images(two_seeds), device="cpu"))
    assert not mlflow.get_run(last_run().info.run_id).inputs.model_inputs
    assert last_run().data.tags["predicted_with"] == two_seeds.checkpoint


def test_a_missing_model_is_reported(two_seeds: Trained) -> None:
    for uri, message in (
        ("models:/first-seed@nobody", "alias nobody not found"),
        ("models:/nothing@first", "nothing"),
        ("models:/it's nothing/latest", "there is no version of a model called"),
        (f"runs:/{two_seeds.run_ids[1]}", rf"logged no model .*{two_seeds.run_ids[1]}/last\.pt"),
    ):
        with pytest.raises(InputError, match=message):
            run_prediction(PredictConfig(model_uri=uri, images=images(two_seeds), device="cpu"))


def test_a_moved_artifact_folder_is_reported(
    tmp_path: Path, own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, client = tmp_path / "kept" / "mlruns", MlflowClient()
    client.create_experiment("moved", folder.as_uri())
    with tracking.tracked_run("moved", "n", {"kind": "train"}) as run_id:
        tracking.log_json({"epochs": 1}, "config.json")
        tracking.log_text("", "model/MLmodel")
    client.create_registered_model("moved")
    client.create_model_version("moved", f"{mlflow.get_run(run_id).info.artifact_uri}/model")
    client.set_registered_model_alias("moved", "best", "1")
    assert missing_files(f"runs:/{run_id}") is None
    assert missing_files("models:/moved/1") is None
    shutil.move(folder, tmp_path / "elsewhere")
    commands = [
        *(["predict", "--model_uri", uri, "--images", str(own_data)]
          for uri in (run_id, f"runs:/{run_id}", "models:/moved/1", "models:/moved@best")),
        ["evaluate", "--model_uri", run_id], ["compare", "--run_ids", run_id], ["compare", "--run_ids", "moved"],
        ["report", "--experiment", "moved"], ["report", "--run_ids", run_id],
    ]  # fmt: skip
    for arguments in commands:
        assert mlproject.main(arguments) == 1, arguments
        printed = capsys.readouterr().err
        assert f"but {folder} does not exist. If that folder was moved, move it back" in printed, arguments
    folder.symlink_to(tmp_path / "elsewhere")
    assert missing_files(f"runs:/{run_id}") is None
