from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights, mobilenet_v3_large, resnet50
from torchvision.models.segmentation import fcn_resnet50, lraspp_mobilenet_v3_large

from segmentation.classes import Classes
from segmentation.config import ModelConfig, OptimizationConfig, TrainingConfig
from segmentation.data.voc import CLASSES as VOC
from segmentation.errors import InputError
from segmentation.models.segmenter import build
from segmentation.models.starting_weights import load_hub_weights, load_matching
from segmentation.models.state_dicts import load_weights_file
from segmentation.training.optimizers import build_optimizer
from tests.segmentation.models.own import TEN_LINES, U_NET, written

NAMES = tuple(f"class {index}" for index in range(4))
LRASPP = "lraspp_mobilenet_v3_large"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which torchvision caches downloaded weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def cache(folder: Path, published: str, state: dict[str, torch.Tensor]) -> None:
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
    cache(hub, published, state)
    config = ModelConfig(model=model, weights="imagenet")
    network = build(config, 4)
    loaded = load_hub_weights(network, config, NAMES)
    own = network.backbone.state_dict()
    assert sorted(loaded.taken) == sorted(f"network.backbone.{name}" for name in own)
    assert len(loaded.left) == unused
    assert all("classifier" in name for name in loaded.fresh)
    for name, tensor in own.items():
        assert torch.equal(tensor, state.get(name, state.get(f"features.{name}"))), name
    assert f"{len(own)} tensors loaded" in str(loaded)


@pytest.mark.parametrize(
    ("model", "make", "last"),
    [("fcn_resnet50", fcn_resnet50, "classifier.4"), (LRASPP, lraspp_mobilenet_v3_large, "low_classifier")],
)
def test_coco_weights_keep_the_head_only_for_the_same_classes(
    model: str, make: type[torch.nn.Module], last: str, hub: Path
) -> None:
    state = make(weights=None, weights_backbone=None, num_classes=21).state_dict()
    cache(hub, model, state)
    config = ModelConfig(model=model, weights="coco")
    same = load_hub_weights(build(config, 21), config, VOC.names)
    assert not same.fresh
    for names in (NAMES, tuple(f"c{i}" for i in range(21))) if model == LRASPP else (NAMES,):  # FCN takes seconds
        loaded = load_hub_weights(build(config, len(names)), config, names)
        assert loaded.fresh
        assert all("classifier" in name for name in loaded.fresh)
        assert any(last in name for name in loaded.left)


def test_weights_that_cannot_be_downloaded_are_reported_with_their_url_and_folder(hub: Path) -> None:
    config = ModelConfig(model=LRASPP, weights="imagenet")
    with pytest.raises(InputError, match=r"weights=imagenet .*https://.*mobilenet_v3_large.*checkpoints"):
        load_hub_weights(build(config, 4), config, NAMES)


def test_a_damaged_file_of_weights_is_reported(hub: Path) -> None:
    cache(hub, "mobilenet_v3_large", {})
    (file,) = hub.iterdir()
    file.write_bytes(b"not weights")
    config = ModelConfig(model=LRASPP, weights="imagenet")
    with pytest.raises(InputError, match=rf"weights=imagenet: {file} is damaged"):
        load_hub_weights(build(config, 4), config, NAMES)


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(InputError, match="none of the 1 tensors"):
        load_matching(build(ModelConfig(model=LRASPP), 4), {"x": torch.zeros(3)}, same_classes=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    ("model", "published", "make"),
    [("fcn_resnet50", "resnet50", resnet50), (LRASPP, "mobilenet_v3_large", mobilenet_v3_large)],
)
def test_the_first_channels_keep_their_weights(
    channels: int, model: str, published: str, make: type[torch.nn.Module], hub: Path
) -> None:
    state = make(weights=None).state_dict()
    cache(hub, published, state)
    config = TrainingConfig(model=model, weights="imagenet", channels=channels)
    found = build(config, 4)
    loaded = load_hub_weights(found, config, NAMES)
    name = {"fcn_resnet50": "conv1.weight", LRASPP: "features.0.0.weight"}[model]
    own = found.state_dict()["network.backbone." + name.removeprefix("features.")]
    kept = min(3, channels)
    assert own.shape[1] == channels
    torch.testing.assert_close(own[:, :kept], state[name][:, :kept], rtol=0, atol=0)
    for further in range(3, channels):
        torch.testing.assert_close(own[:, further], state[name].mean(1) * 3 / channels)
    assert all(name.split(".")[1] != "backbone" for name in loaded.fresh)
    assert not {"mean", "std", "bits"} & {*loaded.fresh, *loaded.left}
    found.set_normalization([100.0] * channels, [50.0] * channels, 16)
    with torch.no_grad():
        assert found.eval()(torch.zeros(1, channels, 32, 32, dtype=torch.uint16)).shape == (1, 4, 32, 32)


def test_a_model_of_the_same_channels_keeps_all_weights() -> None:
    config = TrainingConfig(model=LRASPP, channels=5)
    trained, new = build(config, 4), build(config, 4)
    trained.set_normalization([1.0] * 5, [2.0] * 5, 16)
    load_matching(new, trained.state_dict(), same_classes=True)
    own = new.state_dict()
    assert all(
        torch.equal(tensor, own[name]) for name, tensor in trained.state_dict().items() if name.startswith("network.")
    )


def test_class_layers_of_an_own_network_are_the_tensors_that_change_with_the_classes() -> None:
    written({"my_models.py": U_NET}, "my_models:unet")
    config = ModelConfig(model="my_models:unet")
    trained, new = build(config, 3), build(config, 3)
    loaded = load_matching(new, trained.state_dict(), same_classes=False)
    assert sorted(loaded.fresh) == ["network.head.bias", "network.head.weight"]
    assert set(loaded.left.values()) == {"trained on other classes"}
    assert not load_matching(new, trained.state_dict(), same_classes=True).fresh


def test_a_missing_convolution_leaves_out_its_stage_of_an_own_encoder() -> None:
    written({"my_models.py": U_NET}, "my_models:unet")
    config = ModelConfig(model="my_models:unet")
    tensors = dict(build(config, 3).state_dict())
    del tensors["network.encoder.1.0.weight"]
    loaded = load_matching(build(config, 3), tensors, same_classes=True)
    assert {name for name in loaded.fresh if ".encoder." in name} == {
        f"network.encoder.1.{name}"
        for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    }


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.model.", "_orig_mod."])
@pytest.mark.parametrize("part", ["", "encoder."])
def test_a_state_dict_of_an_own_network_or_of_its_encoder_is_loaded(prefix: str, part: str, tmp_path: Path) -> None:
    written({"my_models.py": U_NET}, "my_models:unet")
    config = ModelConfig(model="my_models:unet")
    trained, new = build(config, 3), build(config, 3)
    state = trained.network.state_dict()
    saved = {prefix + name.removeprefix(part): each for name, each in state.items() if name.startswith(part)}
    torch.save(saved, tmp_path / "own.pth")
    loaded = load_weights_file(new, tmp_path / "own.pth", Classes.named("a", "b", "c"))
    assert sorted(loaded.taken) == sorted(f"network.{name}" for name in state if name.startswith(part))
    found = new.network.state_dict()
    assert all(torch.equal(found[name], each) for name, each in state.items() if name.startswith(part))


def test_an_own_network_without_a_backbone_has_an_empty_one() -> None:
    written({"my_models.py": TEN_LINES}, "my_models:net")
    model = build(ModelConfig(model="my_models:net"), 3)
    assert (model.backbone_name, list(model.backbone.parameters())) == (None, [])
    optimizer = build_optimizer(model, OptimizationConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 4]
