"""On a simulated device without float64, training, scoring, prediction and calibration give the results of the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.calibration import calibrators as recalibration
from segmentation.calibration.fitting import fit
from segmentation.classes import Classes
from segmentation.data import load_split
from segmentation.models.segmenter import build
from segmentation.prediction.predictor import Predictor
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.confusion import Confusion
from segmentation.scoring.pixel_predictions import pixel_predictions
from segmentation.scoring.reliability import FINE_BINS, Reliability, bin_of
from segmentation.scoring.scores import Scores
from segmentation.scoring.softmax_counts import count_correct, count_pixels
from segmentation.training.loop import Data, Epoch, train
from studies.config import TrainConfig
from tests.accelerator import DEVICE, NO_FLOAT64, accelerator


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, images and masks with void."""
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 4, 9, 8, generator=random)
    masks = torch.randint(0, 5, (3, 9, 8), generator=random)
    images = torch.randint(0, 256, (3, 3, 9, 8), generator=random).to(torch.uint8)
    return logits, images, torch.where(masks == 4, 255, masks).to(torch.uint8)


def test_the_simulated_device_refuses_float64_and_mixed_devices_as_real_ones_do() -> None:
    with accelerator():
        values = torch.ones(3).to(DEVICE)
        assert (values.device, (values + 1).sum().item()) == (DEVICE, 6.0)
        for refused in (
            values.double,
            lambda: values.sum(dtype=torch.float64),
            lambda: torch.arange(3, dtype=torch.float64, device=DEVICE),
            lambda: torch.ones(3, dtype=torch.float64).to(DEVICE),
        ):
            with pytest.raises(TypeError, match=NO_FLOAT64):
                refused()
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            values + torch.ones(3)


def trained(root: Path, device: str) -> tuple[Epoch, dict[str, torch.Tensor], list[Any]]:
    """The last epoch, the weights after it, and a prediction by the model."""
    config = TrainConfig(
        dataset="folder", data_dir=str(root), resize=32, crop=32, model="lraspp_mobilenet_v3_large", epochs=1,
        batch_size=3, micro_batch=2, learning_rate=0.005, flip=0.5, device=device,
    )  # fmt: skip
    data = Data(load_split(config, "train"), load_split(config, "val"))
    torch.manual_seed(0)
    model = build(config, 3)
    *_, last = train(model, data, config)
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    image = Image.fromarray(data.val.images[0])
    return last, weights, Predictor(model.eval(), 32, "bilinear", device, flip=True)([image])


def test_training_scoring_and_prediction_are_as_on_the_cpu_without_channels_last(own_data: Path) -> None:
    on_cpu, weights, (predicted,) = trained(own_data, "cpu")
    with accelerator() as device:
        last, found, (there,) = trained(own_data, DEVICE.type)
    assert {"aten.convolution_backward.default", "aten.native_batch_norm_backward.default"} <= device.operations
    assert device.layouts == {"contiguous"}
    for name, value in on_cpu.metrics().items():
        if name not in ("epoch_seconds", "images_per_second", "val/ece_low", "val/ece_high"):  # resamples of 3 images
            assert last.metrics()[name] == pytest.approx(value, rel=5e-3, abs=2e-3, nan_ok=True), name
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(there.confidence, predicted.confidence, atol=1e-3)


def test_pixels_are_counted_as_on_the_cpu() -> None:
    logits, _, masks = batch()

    def counted(logits: torch.Tensor, masks: torch.Tensor) -> dict[str, Any]:
        scores, reliability, confusion = Scores(Classes.named(*"abcd")), Reliability(), Confusion(4)
        scores.update(logits, masks)
        reliability.update(logits, masks)
        pixels = pixel_predictions(logits, masks)
        confusion.update(pixels.label, masks, pixels.valid)
        near = boundary_band(masks, 1)
        return {
            **count_pixels(logits, masks, near), "half": count_pixels(logits.bfloat16(), masks, near)["count"],
            **{f"metric {name}": value for name, value in scores.metrics().items()},
            "ece": reliability.ece(), "iou": confusion.iou(), "right": count_correct(logits, masks).item(),
            "bins": bin_of(pixels.confidence, FINE_BINS).cpu().numpy(),
        }  # fmt: skip

    expected = counted(logits, masks)
    with accelerator():
        found = counted(logits.to(DEVICE), masks.to(DEVICE))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", recalibration.METHODS)
def test_calibrators_are_fitted_as_on_the_cpu_and_are_on_the_device_of_the_logits(method: str) -> None:
    logits, images, masks = batch()
    expected = fit(method, lambda: [(logits, images, masks)], 4)
    with accelerator():
        given = tuple(each.to(DEVICE) for each in (logits, images, masks))
        found = fit(method, lambda: [given], 4)
        corrected = found.calibrator(*given[:2])
        assert corrected.device == DEVICE
        corrected = corrected.cpu()
    assert (found.nll_after, found.passes) == (expected.nll_after, expected.passes)
    assert found.nll_after < found.nll_before
    torch.testing.assert_close(corrected, expected.calibrator(logits, images))
