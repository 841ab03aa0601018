"""Training on random crops, and scoring whole images of different sizes: the same images and metrics everywhere."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from segmentation.data import load_split
from segmentation.scoring.scores import Scores
from studies.config import CalibrateConfig, EvaluateConfig, TrainConfig
from studies.models import loading as model_store
from studies.runs.calibration import run_calibration
from studies.runs.evaluation import run_evaluation
from studies.runs.training import run_training
from tests import tiny_network
from tests.conftest import last_run

pytestmark = pytest.mark.slow


def test_whole_images_are_scored_in_training_evaluation_and_calibration(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(
        dataset="voc2007", data_dir=str(voc), resize=24, crop=20, crop_at="random", score_crop="whole", device="cpu",
        model=tiny_network.NAME, epochs=1, batch_size=4, calibration_fraction=0.25, plot_every=0, examples=2,
        log_model=False,
    )  # fmt: skip
    result = run_training(config)
    assert "the crop keeps" not in capsys.readouterr().out
    checkpoint = f"checkpoints/{result.run_id}/best.pt"
    val = load_split(config, "val")
    assert [mask.shape for mask in val.masks] == [(24, 32), (29, 24)]
    model = model_store.load(checkpoint).network().eval()
    expected = Scores(val.labels, config.boundary_width)
    with torch.no_grad():
        for index in range(2):
            images, masks = val.gather(np.array([index]))
            expected.update(model(images), masks)
    of_run = mlflow.get_run(result.run_id).data.metrics
    evaluated = run_evaluation(EvaluateConfig(model_uri=checkpoint, batch_size=2, examples=1))
    record = json.loads(mlflow.artifacts.load_text(f"runs:/{last_run().info.run_id}/reliability/val.json"))
    rules = record["protocol"]
    assert (rules["resolution"], rules["crop"], rules["in_crop"]) == ("each image's own", None, 1.0)
    assert rules["pixels"] == sum(np.count_nonzero(mask != 255) for mask in val.masks)
    run_calibration(CalibrateConfig(run_id=checkpoint, examples=0))
    calibrated = mlflow.get_run(last_run().info.run_id).data.metrics
    for name, value in expected.metrics().items():
        assert of_run[f"val/{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name
        assert evaluated[f"val/{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    assert calibrated["val_before/loss"] == pytest.approx(expected.metrics()["loss"], rel=1e-5)
