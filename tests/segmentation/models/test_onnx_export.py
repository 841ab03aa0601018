"""ONNX files beside the models they come from, in onnxruntime."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segmentation.calibration import calibrators
from segmentation.config import ModelConfig
from segmentation.errors import InputError
from segmentation.models import onnx_export
from segmentation.models.segmenter import Segmenter, build
from tests import tiny_network

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

METADATA = {"class_names": ["a", "b", "c"], "resize": None}


def model(calibration: str | None = None) -> Segmenter:
    torch.manual_seed(0)
    network = build(ModelConfig(model=tiny_network.LRASPP), 3)
    if calibration is not None:
        network.calibrator = calibrators.build(calibration, 3)
        for parameter in network.calibrator.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        for buffer in network.calibrator.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    for layer in network.modules():  # otherwise all logits are nearly equal
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return network.eval()


def test_the_file_of_a_calibrated_model_agrees_with_it_at_other_sizes(tmp_path: Path) -> None:
    network, file = model("local"), tmp_path / "model.onnx"
    assert onnx_export.export_onnx(network, file, METADATA) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(file))
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == ["a", "b", "c"]
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 50, 71), dtype=np.uint8)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    assert expected.std() > 0.1, "a model that predicts the same everywhere would show nothing"
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-4)


class Dense(torch.nn.Module):
    """A network of one layer, which is exported in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.layer(images)}


def test_a_file_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="differs from the model"):
        onnx_export.export_onnx(Segmenter(Dense(), "signed_unit"), tmp_path / "model.onnx", METADATA)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(InputError, match="needs the packages no_such_package: pip install no_such_package"):
        onnx_export.check_packages()
