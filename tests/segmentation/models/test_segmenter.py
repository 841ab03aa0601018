import pytest
import torch

from segmentation.calibration import calibrators
from segmentation.config import ModelConfig
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
