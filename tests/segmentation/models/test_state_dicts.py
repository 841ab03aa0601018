"""State dicts of other programs as starting weights of torchvision's networks."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from segmentation.classes import Classes
from segmentation.config import ModelConfig
from segmentation.errors import InputError
from segmentation.models.segmenter import Segmenter, build
from segmentation.models.state_dicts import load_weights_file, read_state_dict
from tests.conftest import PROJECT

LRASPP = "lraspp_mobilenet_v3_large"
LABELS = Classes.named("a", "b", "c")
State = dict[str, torch.Tensor]


def fresh(model: Any = LRASPP) -> Segmenter:
    torch.manual_seed(1)
    return build(ModelConfig(model=model), len(LABELS))


@pytest.fixture(scope="module")
def whole() -> State:
    """The state dict of a whole torchvision network."""
    torch.manual_seed(7)
    return dict(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict())


def backbone_of(state: State) -> State:
    return {name.removeprefix("backbone."): each for name, each in state.items() if name.startswith("backbone.")}


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def safetensors(state: State, file: Path, **metadata: str) -> None:
    """Write a safetensors file by hand, following the specification of the format."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    codes, content = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}, b""
    for name, tensor in state.items():
        values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(content), len(content) + len(values)],
        }
        content += values
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content)


@pytest.mark.parametrize(
    "around",
    [
        dict,
        prefixed("module."),
        prefixed("model."),
        prefixed("_orig_mod.module."),
        prefixed("network."),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": prefixed("module.")(state), "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"model": {"state_dict": state}, "loss": torch.tensor(3.0)},
    ],
)
def test_a_wrapped_state_dict_is_loaded(around: Callable[[State], Any], whole: State, tmp_path: Path) -> None:
    torch.save(around(whole), tmp_path / "w.pth")
    network = fresh()
    loaded = load_weights_file(network, tmp_path / "w.pth", LABELS)
    assert not loaded.fresh
    assert not loaded.left
    for name, tensor in network.network.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "encoder.", "state_dict.model.backbone."])
def test_a_backbone_alone_is_loaded(prefix: str, whole: State, tmp_path: Path) -> None:
    backbone = backbone_of(whole)
    torch.save(prefixed(prefix)(backbone), tmp_path / "w.pth")
    network = fresh()
    loaded = load_weights_file(network, tmp_path / "w.pth", LABELS)
    assert len(loaded.taken) == len(backbone)
    assert all("network.classifier." in name for name in loaded.fresh)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, backbone[name]), name


@pytest.mark.parametrize(
    ("model", "make", "head"),
    [("fcn_resnet50", resnet50, ["fc.weight", "fc.bias"]), (LRASPP, mobilenet_v3_large, ["classifier.0.weight"])],
)
def test_a_classifier_s_own_names_fill_the_backbone(
    model: str, make: type[nn.Module], head: list[str], tmp_path: Path
) -> None:
    state = make(weights=None).state_dict()
    torch.save(state, tmp_path / "w.pth")
    network = fresh(model)
    loaded = load_weights_file(network, tmp_path / "w.pth", LABELS)
    assert set(head) <= loaded.left.keys()
    assert set(loaded.left.values()) == {"not in this model"}
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, state.get(name, state.get(f"features.{name}"))), name


def test_class_layers_are_loaded_only_for_the_same_number_of_classes(whole: State, tmp_path: Path) -> None:
    torch.save(whole, tmp_path / "w.pth")
    network = build(ModelConfig(model=LRASPP), 4)  # type: ignore[arg-type]
    loaded = load_weights_file(network, tmp_path / "w.pth", Classes.named("a", "b", "c", "d"))
    assert loaded.left["classifier.low_classifier.bias"] == "shape (3,) where the model has (4,)"
    assert all("low_classifier" in name or "high_classifier" in name for name in (*loaded.left, *loaded.fresh))
    assert "shape (3,) where the model has (4,) (classifier.low_classifier.bias, " in str(loaded)


def test_safetensors_are_read_in_any_precision(whole: State, tmp_path: Path) -> None:
    safetensors(whole, tmp_path / "w.safetensors", format="pt")
    assert not load_weights_file(fresh(), tmp_path / "w.safetensors", LABELS).fresh
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
    safetensors(half, tmp_path / "half.SAFETENSORS")
    network = fresh()
    assert not load_weights_file(network, tmp_path / "half.SAFETENSORS", LABELS).left
    for name, tensor in network.network.state_dict().items():
        assert torch.equal(tensor, half[name].to(tensor.dtype)), name


def test_what_the_safetensors_library_writes_is_read(whole: State, tmp_path: Path) -> None:
    save_file(whole | {"empty": torch.zeros(0, 2), "scalar": torch.tensor(True)}, tmp_path / "w.safetensors")
    found = read_state_dict(tmp_path / "w.safetensors")
    assert found.pop("empty").shape == (0, 2)
    assert found.pop("scalar").item() is True
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_a_stage_with_missing_convolutions_is_skipped() -> None:
    """The partial ImageNet ResNet-50 holds the stem, layer1 and layer2 completely, and parts of layers 3 and 4."""
    file = PROJECT.parent / "shared/data/weights/resnet50_imagenet1k_v1_partial.pth"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    network, untouched = fresh("fcn_resnet50"), fresh("fcn_resnet50").state_dict()
    loaded = load_weights_file(network, file, LABELS)
    state = torch.load(file, weights_only=True)
    right = {name for name in state if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))}
    assert set(loaded.taken) == {f"network.backbone.{name}" for name in right}
    assert loaded.left["layer3.0.bn1.weight"] == loaded.left["layer4.2.bn3.running_var"]
    assert "convolutions of its layer are missing" in loaded.left["layer3.0.bn1.weight"]
    assert loaded.left["fc.bias"] == "not in this model"
    for name, tensor in network.state_dict().items():
        source = name.removeprefix("network.backbone.")
        assert torch.equal(tensor, state[source] if source in right else untouched[name]), name


def test_a_batch_norm_without_its_convolution_is_skipped(tmp_path: Path) -> None:
    state = resnet50(weights=None).state_dict()
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)  # for images with a fourth channel
    torch.save(state, tmp_path / "w.pth")
    loaded = load_weights_file(fresh("fcn_resnet50"), tmp_path / "w.pth", LABELS)
    assert loaded.left["conv1.weight"] == "shape (64, 4, 7, 7) where the model has (64, 3, 7, 7)"
    assert "bn1.running_mean" in loaded.left
    assert "network.backbone.layer1.0.conv1.weight" in loaded.taken


def test_weights_of_another_architecture_are_refused_with_names_of_both(tmp_path: Path) -> None:
    torch.save({"blocks.0.qkv.weight": torch.zeros(3, 3), "cls_token": torch.zeros(1)}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"vit\.pth: .*none of the 2 tensors.*blocks\.0\.qkv\.weight, cls_token"):
        load_weights_file(fresh(), tmp_path / "vit.pth", LABELS)


def test_two_copies_of_one_network_are_refused(whole: State, tmp_path: Path) -> None:
    torch.save(prefixed("module.")(whole) | whole, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match="holds module.backbone.0.0.weight and backbone.0.0.weight, which are the same"
    ):
        load_weights_file(fresh(), tmp_path / "w.pth", LABELS)


@pytest.mark.parametrize(
    "content", [{"epoch": 3, "state_dict": {}}, [torch.zeros(3)], torch.zeros(3), nn.Linear(1, 1), {1: torch.zeros(1)}]
)
def test_a_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth (holds no state dict|cannot be read: .*state_dict\(\))"):
        load_weights_file(fresh(), tmp_path / "w.pth", LABELS)


def test_a_tensor_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**40)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="w cannot be loaded: sparse, quantized or larger than its data"):
        load_weights_file(fresh(), tmp_path / "w.pth", LABELS)


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_a_cut_off_file_is_refused(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors({"w": torch.arange(6.0), "v": torch.ones(2, 2)}, file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"weights=.*w\.safetensors cannot be read"):
        read_state_dict(file)


@pytest.mark.parametrize(
    "change", [{"data_offsets": [0, 8]}, {"data_offsets": [8, 32]}, {"shape": [2**40]}, {"shape": [-6]}, {"dtype": "X"}]
)
def test_a_wrong_header_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]} | change}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read"):
        read_state_dict(tmp_path / "w.safetensors")
