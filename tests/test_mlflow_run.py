"""The project started by `mlflow run`."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from tests.conftest import CAMVID, PROJECT, needs_camvid

pytestmark = pytest.mark.slow


def mlflow_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local"]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)


def parameters(**values: object) -> list[str]:
    return [part for name, value in values.items() for part in ("-P", f"{name}={value}")]


@needs_camvid
def test_train_on_camvid_with_declared_and_undeclared_parameters(store: str, tmp_path: Path) -> None:
    """Real images; a relative data_dir is the caller's, and fields that MLproject does not declare get through."""
    done = mlflow_run(
        "-e", "train", "--experiment-name", "from mlflow run",
        *parameters(dataset="camvid", data_dir=os.path.relpath(CAMVID), model="lraspp_mobilenet_v3_large", epochs=1,
                    resize=32, crop=32, batch_size=32, learning_rate="1e-1", keep="last", examples=0, plot_every=0,
                    checkpoint_dir=tmp_path / "kept", log_model="false"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.search_runs(experiment_names=["from mlflow run"], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "1e-1"
    assert run.data.params["keep"] == "last"
    assert run.data.params["momentum"] == "0.9"
    assert run.data.tags["mlflow.project.entryPoint"] == "train"
    assert run.data.metrics["val/pixel_accuracy"] > 0.1
    assert (tmp_path / "kept" / run.info.run_id / "last.pt").is_file()
    assert "See run " in done.stdout


def test_the_quick_start_learns(store: str, tmp_path: Path) -> None:
    """Three epochs of small images are enough to see that."""
    smaller = parameters(epochs=3, resize=48, crop=48, plot_every=3, examples=1, log_model="false")
    given = [*smaller, *parameters(checkpoint_dir=tmp_path / "kept")]
    done = mlflow_run("--experiment-name", "quick start", *given)
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.search_runs(experiment_names=["quick start"], output_format="list")
    first = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/mean_iou")[0].value
    assert run.data.metrics["val_model/mean_iou"] > first + 0.1
    assert 0.76 < run.data.metrics["val_model/pixel_accuracy"] < 0.98
    assert 0 < run.data.metrics["val_model/ece"] < 0.1
    assert "pixel accuracy" in done.stdout


def test_a_mistake_ends_the_run_as_failed_and_is_quoted_as_it_was_given(store: str) -> None:
    variants = "lraspp_mobilenet_v3_large, fcn_resnet50 weights=coco learning_rate=notafloat"
    done = mlflow_run("-e", "models", "--experiment-name", "mistaken models", *parameters(variants=variants))
    assert done.returncode != 0
    assert "variants: 'fcn_resnet50 weights=coco learning_rate=notafloat'" in done.stderr
    (run,) = mlflow.search_runs(experiment_names=["mistaken models"], output_format="list")
    assert run.info.status == "FAILED"
    assert "'notafloat' is not a number" in run.data.tags["status_reason"]
