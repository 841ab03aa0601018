"""A model exported through the command line, and the example of the documentation that uses it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlproject
from studies.config import TrainConfig
from studies.models import loading
from studies.runs.training import run_training
from tests.conftest import PROJECT, last_run
from tests.studies.search.conftest import tiny

pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_the_example_of_the_page_runs_without_torch(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a network of two convolutions, which is exported in seconds; `test_onnx_export` exports LR-ASPP."""
    run_training(TrainConfig(**tiny(own_data, keep="last")))
    checkpoint = f"checkpoints/{last_run().info.run_id}/last.pt"
    assert mlproject.main(["export", "--model_uri", checkpoint]) == 0
    run = last_run()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["export/largest_difference"] < 1e-4
    assert "model.onnx" in capsys.readouterr().out
    blocks = (PROJECT / "docs/export.md").read_text().split("```python\n")[1]
    example = blocks.partition("```")[0]
    assert "torch" not in example
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg", quality=100)
    printed = subprocess.run([sys.executable, "-c", example], check=True, capture_output=True, text=True).stdout
    stored = loading.load(checkpoint)
    assert [line.partition(":")[0] for line in printed.splitlines()] == [*stored.labels.names, "mean confidence"]
    import torch

    with Image.open("photo.jpg") as image, torch.no_grad():
        images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        expected = stored.network()(images)[0].argmax(0).numpy()
    with Image.open("mask.png") as mask:
        assert (np.array(mask) != expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("output", "message"), [("model.bin", "must end in .onnx"), ("nowhere/model.onnx", "nowhere does not exist")]
)
def test_a_wrong_output_is_refused_before_a_run(output: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlproject.main(["export", "--model_uri", "x", "--output", output]) == 1
    assert message in capsys.readouterr().err
