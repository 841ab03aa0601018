"""A real network calibrated on images it has not seen: what the run holds, and whether what is served is calibrated."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from segmentation.batches import in_order
from segmentation.config import CalibrateConfig, CompareConfig, EvaluateConfig
from segmentation.datasets import load_split
from segmentation.errors import InputError
from segmentation.scoring import score
from studies import model_store
from studies.calibration_run import run_calibration
from studies.comparison_run import run_comparison
from studies.evaluation_run import run_evaluation
from tests.studies.conftest import Trained


def last_run() -> mlflow.entities.Run:
    return mlflow.last_active_run() or pytest.fail("no run was opened")


def text(path: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{last_run().info.run_id}/{path}")


@pytest.mark.parametrize("method", ["temperature", "vector", "local"])
def test_a_calibration_run_holds_before_and_after_and_the_calibrated_model(
    method: str, two_seeds: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = run_calibration(CalibrateConfig(run_id=two_seeds.run_ids[0], method=method, register_as=f"mended-{method}"))
    run = last_run()
    assert run.info.status == "FINISHED"
    assert fit.nll_after <= fit.nll_before
    assert run.data.metrics["fit/loss_after"] <= run.data.metrics["fit/loss_before"]
    before = mlflow.get_run(two_seeds.run_ids[0]).data.metrics
    for name in ("ece", "loss", "pixel_accuracy", "mean_iou"):
        assert run.data.metrics[f"before/{name}"] == pytest.approx(before[f"val/{name}"], abs=1e-5)
    if method != "vector":
        assert run.data.metrics["val/pixel_accuracy"] == run.data.metrics["before/pixel_accuracy"]
        assert run.data.metrics["val/mean_iou"] == run.data.metrics["before/mean_iou"]
    fitted = json.loads(text("calibration/fit.json"))
    assert (fitted["method"], fitted["split"], fitted["images"]) == (method, "held_out", 3)
    changes = json.loads(text("calibration/changes.json"))
    low, high = changes["loss"]["interval"]
    assert low <= changes["loss"]["after"] - changes["loss"]["before"] <= high
    folder = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "calibration")}
    assert "calibration/before_and_after.png" in folder
    printed = capsys.readouterr().out
    assert "Before -> after" in printed
    assert run.info.run_id in printed.splitlines()[-1]

    # what is served is calibrated
    config = two_seeds.configs[0]
    val = load_split(config, "val")
    stored = model_store.load(f"models:/mended-{method}@latest-run")
    assert stored.run_id == two_seeds.run_ids[0]
    scores = score(stored.network(), in_order(val, 5, torch.device("cpu")), val.labels)
    assert scores.metrics()["ece"] == pytest.approx(run.data.metrics["val/ece"], abs=1e-5)
    images, _ = val.gather(np.arange(2))
    served = mlflow.pyfunc.load_model(f"models:/mended-{method}@latest-run").predict(images.contiguous().numpy())
    with torch.no_grad():
        np.testing.assert_allclose(served, stored.network()(images), atol=1e-4)
        plain = model_store.load(two_seeds.run_ids[0]).network()(images)
    if method != "vector":
        assert (plain.max(1).indices == torch.from_numpy(served).max(1).indices).all()


def test_a_calibrated_run_can_be_evaluated_compared_and_calibrated_anew(
    two_seeds: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_calibration(CalibrateConfig(run_id=two_seeds.run_ids[0]))
    calibrated = last_run()
    again = run_calibration(CalibrateConfig(run_id=calibrated.info.run_id))
    assert again.temperature == pytest.approx(first.temperature, rel=1e-3)
    assert "is calibrated already" in capsys.readouterr().out
    metrics = run_evaluation(EvaluateConfig(model_uri=calibrated.info.run_id, examples=0))
    assert metrics["val/ece"] == pytest.approx(calibrated.data.metrics["val/ece"], abs=1e-5)
    (pair,) = run_comparison(CompareConfig(run_ids=f"{two_seeds.run_ids[0]},{calibrated.info.run_id}"))
    assert pair.differences["pixel_accuracy"].value == 0
    change = calibrated.data.metrics["before/loss"] - calibrated.data.metrics["val/loss"]
    assert pair.differences["loss"].value == pytest.approx(change, abs=1e-5)


def test_fitting_on_what_was_trained_on_is_refused(two_seeds: Trained) -> None:
    with pytest.raises(InputError, match="calibration_split=train is what the network was trained on"):
        run_calibration(CalibrateConfig(run_id=two_seeds.run_ids[0], calibration_split="train"))
    assert last_run().info.status == "FAILED"
    with pytest.raises(InputError, match="calibration_split=val is the split that is scored"):
        CalibrateConfig(run_id=two_seeds.run_ids[0], calibration_split="val")


def test_images_that_were_trained_or_are_scored_on_under_another_name_are_found(
    two_seeds: Trained, tmp_path: Path
) -> None:
    """A split whose name is new but which holds a copy of a training image, or of a scored one."""
    for copied_from, message in (("train", "the network is also trained on"), ("val", "the network is also scored on")):
        own = tmp_path / copied_from
        shutil.copytree(two_seeds.configs[0].data_dir, own)
        names = [
            name for name in load_split(two_seeds.configs[0], copied_from).names
            if name not in load_split(two_seeds.configs[0], "held_out").names
        ]  # fmt: skip
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (own / "extra" / kind).mkdir(parents=True)
            shutil.copy(own / copied_from / kind / f"{names[0]}.{suffix}", own / "extra" / kind / f"new.{suffix}")
        with pytest.raises(InputError, match=message):
            run_calibration(CalibrateConfig(run_id=two_seeds.run_ids[0], data_dir=str(own), calibration_split="extra"))


def test_without_held_out_images_the_way_out_is_told(two_seeds: Trained, tmp_path: Path) -> None:
    checkpoint = torch.load(
        Path(two_seeds.configs[0].checkpoint_dir) / two_seeds.run_ids[0] / "last.pt", weights_only=True
    )
    checkpoint["config"]["calibration_fraction"] = 0.0
    torch.save(checkpoint, tmp_path / "none.pt")
    with pytest.raises(InputError, match="no training images were held out; train with calibration_fraction=0.15"):
        run_calibration(CalibrateConfig(run_id=str(tmp_path / "none.pt")))
