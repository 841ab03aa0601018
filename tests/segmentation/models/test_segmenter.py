from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights, mobilenet_v3_large, resnet50
from torchvision.models.segmentation import fcn_resnet50, lraspp_mobilenet_v3_large

from segmentation.calibration import calibrators as recalibration
from segmentation.config import ModelConfig
from segmentation.data.voc import CLASSES as VOC
from segmentation.errors import InputError
from segmentation.models import segmenter as models

NAMES = tuple(f"class {index}" for index in range(4))
LRASPP = "lraspp_mobilenet_v3_large"


def pictures(side: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side + 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", models.NETWORKS)
def test_every_network_takes_uint8_pictures_and_gives_logits_of_their_size(model: str) -> None:
    network = models.build(ModelConfig(model=model), 4).eval()
    with torch.no_grad():
        logits = network(pictures())
    assert logits.shape == (2, 4, 48, 64)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("normalization", "mean", "deviation"),
    [("signed_unit", [0.5] * 3, [0.5] * 3), ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])],
)
def test_the_input_is_scaled_as_torchvision_would(
    normalization: str, mean: list[float], deviation: list[float]
) -> None:
    network = models.build(ModelConfig(model=LRASPP, normalization=normalization), 4).eval()
    scaled = (pictures() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(deviation).reshape(3, 1, 1)
    with torch.no_grad():
        expected = network.network(scaled)["out"]
        torch.testing.assert_close(network(pictures()), expected, rtol=1e-4, atol=1e-4)


def test_an_auxiliary_head_is_built_only_when_asked() -> None:
    assert set(models.build(ModelConfig(), 4).eval().outputs(pictures())) == {"out"}
    assert set(models.build(ModelConfig(auxiliary_loss=0.5), 4).eval().outputs(pictures())) == {"out", "aux"}


def test_batch_norm_momentum_can_be_chosen() -> None:
    def momenta(value: float | None) -> set[float | None]:
        network = models.build(ModelConfig(model=LRASPP, batch_norm_momentum=value), 4)
        return {module.momentum for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}

    assert momenta(0.3) == {0.3}
    assert 0.01 in momenta(None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torchvision looks for weights that it has fetched before."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def place(folder: Path, published: str, state: dict[str, torch.Tensor]) -> None:
    weights = next(iter(get_model_weights(published)))
    torch.save(state, folder / weights.url.rpartition("/")[2])


@pytest.mark.parametrize(
    ("model", "published", "make", "unused"),
    [("fcn_resnet50", "resnet50", resnet50, 2), (LRASPP, "mobilenet_v3_large", mobilenet_v3_large, 4)],
)
def test_imagenet_weights_fill_the_whole_backbone(
    model: str, published: str, make: type[torch.nn.Module], unused: int, hub: Path
) -> None:
    state = make(weights=None).state_dict()
    place(hub, published, state)
    config = ModelConfig(model=model, weights="imagenet")
    network = models.build(config, 4)
    taken = models.load_hub_weights(network, config, NAMES)
    own = network.backbone.state_dict()
    assert sorted(taken.taken) == sorted(f"network.backbone.{name}" for name in own)
    assert len(taken.left) == unused
    assert all("classifier" in name for name in taken.fresh)
    for name, tensor in own.items():
        assert torch.equal(tensor, state.get(name, state.get(f"features.{name}"))), name
    assert f"{len(own)} tensors taken" in str(taken)


@pytest.mark.parametrize(
    ("model", "make", "last"),
    [("fcn_resnet50", fcn_resnet50, "classifier.4"), (LRASPP, lraspp_mobilenet_v3_large, "low_classifier")],
)
def test_coco_weights_keep_the_head_only_for_the_same_classes(
    model: str, make: type[torch.nn.Module], last: str, hub: Path
) -> None:
    state = make(weights=None, weights_backbone=None, num_classes=21).state_dict()
    place(hub, model, state)
    config = ModelConfig(model=model, weights="coco")
    same = models.load_hub_weights(models.build(config, 21), config, VOC.names)
    assert not same.fresh
    other_names = models.load_hub_weights(models.build(config, 21), config, tuple(f"c{i}" for i in range(21)))
    other_count = models.load_hub_weights(models.build(config, 4), config, NAMES)
    for taken in (other_names, other_count):
        assert taken.fresh
        assert all("classifier" in name for name in taken.fresh)
        assert any(last in name for name in taken.left)


def test_weights_that_cannot_be_fetched_are_told_with_the_file_to_place(hub: Path) -> None:
    config = ModelConfig(weights="imagenet")
    with pytest.raises(InputError, match=r"weights=imagenet could not be fetched from https://.*resnet50.*checkpoints"):
        models.load_hub_weights(models.build(config, 4), config, NAMES)


def test_a_damaged_weight_file_is_told(hub: Path) -> None:
    place(hub, "resnet50", {})
    (file,) = hub.iterdir()
    file.write_bytes(b"not weights")
    config = ModelConfig(weights="imagenet")
    with pytest.raises(InputError, match="is damaged; delete it"):
        models.load_hub_weights(models.build(config, 4), config, NAMES)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match="none of their 1 tensors fits"):
        models.take(models.build(ModelConfig(model=LRASPP), 4), {"x": torch.zeros(3)}, same_classes=True)


def test_a_calibrated_network_gives_the_calibrator_s_logits() -> None:
    network, images = models.build(ModelConfig(model=LRASPP), 3).eval(), pictures()
    with torch.no_grad():
        plain = network(images)
        network.calibrator = recalibration.build("temperature", 3)
        network.calibrator.load_state_dict({"temperature": torch.tensor(2.0)})
        torch.testing.assert_close(network(images).softmax(1), (plain / 2).softmax(1))
        torch.testing.assert_close(network.outputs(images)["out"], plain)
