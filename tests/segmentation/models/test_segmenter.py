from typing import Any

import pytest
import torch

from segmentation.calibration import calibrators
from segmentation.config import ModelConfig, TrainingConfig
from segmentation.errors import InputError
from segmentation.models.networks import NETWORKS
from segmentation.models.segmenter import build

LRASPP = "lraspp_mobilenet_v3_large"


def images() -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8, generator=generator, device="cpu")


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_takes_uint8_images_and_returns_logits_of_their_size(model: str) -> None:
    with torch.device("meta"):  # shapes without values
        logits = build(ModelConfig(model=model), 4).eval()(images().to("meta"))
    assert logits.shape == (2, 4, 48, 64)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("normalization", "mean", "std"),
    [("signed_unit", [0.5] * 3, [0.5] * 3), ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])],
)
def test_the_input_is_normalized_as_torchvision_would(normalization: str, mean: list[float], std: list[float]) -> None:
    network = build(ModelConfig(model=LRASPP, normalization=normalization), 4).eval()
    normalized = (images() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    with torch.no_grad():
        expected = network.network(normalized)["out"]
        torch.testing.assert_close(network(images()), expected, rtol=1e-4, atol=1e-4)


def test_an_unresolved_normalization_is_refused() -> None:
    with pytest.raises(InputError, match=r"normalization=auto.*weights=w\.pth.*signed_unit, imagenet"):
        build(ModelConfig(model=LRASPP, weights="w.pth"), 4)


def test_an_auxiliary_head_is_built_only_for_an_auxiliary_loss() -> None:
    with torch.device("meta"):
        assert set(build(ModelConfig(), 4).eval().outputs(images().to("meta"))) == {"out"}
        assert set(build(ModelConfig(auxiliary_loss=0.5), 4).eval().outputs(images().to("meta"))) == {"out", "aux"}


def test_batch_norm_momentum_can_be_set() -> None:
    def momenta(value: float | None) -> set[float | None]:
        network = build(ModelConfig(model=LRASPP, batch_norm_momentum=value), 4)
        return {module.momentum for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}

    assert momenta(0.3) == {0.3}
    assert 0.01 in momenta(None)


def test_a_calibrated_model_returns_calibrated_logits() -> None:
    network = build(ModelConfig(model=LRASPP), 3).eval()
    with torch.no_grad():
        plain = network(images())
        network.calibrator = calibrators.build("temperature", 3)
        network.calibrator.load_state_dict({"temperature": torch.tensor(2.0)})
        torch.testing.assert_close(network(images()).softmax(1), (plain / 2).softmax(1))
        torch.testing.assert_close(network.outputs(images())["out"], plain)


def test_a_measured_normalization_is_part_of_the_state() -> None:
    """16-bit images through the model equal the normalized images through its network."""
    config = TrainingConfig(model=LRASPP, channels=2)
    assert config.normalization == "measured"
    network, restored = build(config, 4).eval(), build(config, 4).eval()
    network.set_normalization([30_000.0, 5.0], [1_000.0, 3.0], 16)
    restored.load_state_dict(network.state_dict())
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 2**16, (1, 2, 40, 48), generator=generator)
    normalized = (pixels - torch.tensor([30_000.0, 5.0])[:, None, None]) / torch.tensor([1_000.0, 3.0])[:, None, None]
    with torch.no_grad():
        expected = network.network(normalized)["out"]
        torch.testing.assert_close(restored(pixels.to(torch.uint16)), expected)
    assert int(restored.bits) == 16


@pytest.mark.parametrize("method", calibrators.METHODS)
def test_a_calibrated_model_takes_its_own_channels_and_bits(method: str) -> None:
    network = build(TrainingConfig(model=LRASPP, channels=5), 4).eval()
    network.set_normalization([30_000.0] * 5, [1_000.0] * 5, 16)
    network.calibrator = calibrators.build(method, 4, network.measured())
    restored = build(TrainingConfig(model=LRASPP, channels=5), 4).eval()
    restored.calibrator = calibrators.build(method, 4, restored.measured())
    restored.load_state_dict(network.state_dict())
    pixels = torch.full((1, 5, 32, 32), 31_000, dtype=torch.uint16)
    with torch.no_grad():
        torch.testing.assert_close(restored(pixels), network(pixels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"channels": 0}, "channels=0"),
        ({"channels": 5, "normalization": "imagenet"}, "normalization=imagenet is for channels=3, not channels=5"),
        ({"channels": 5, "grayscale": 0.1}, "grayscale=0.1 needs RGB images, not channels=5: set it to 0"),
        ({"channels": 5, "color_jitter": 0.2}, "color_jitter=0.2 needs RGB images, not channels=5: set it to 0"),
    ],
)
def test_fields_that_need_rgb_images_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        TrainingConfig(**fields)
