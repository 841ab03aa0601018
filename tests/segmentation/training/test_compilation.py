"""Compiled networks, beside the same ones that are not compiled."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from segmentation.errors import InputError
from segmentation.training import compilation
from segmentation.training.compilation import obstacle, pays
from segmentation.training.loop import Epoch, train
from studies.config import TrainConfig
from tests.segmentation.training.models import TIMED, prepared

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_pays_where_seven_percent_of_the_time_left_are_twice_two_minutes() -> None:
    assert not pays(0)
    assert not pays(57 * 60)
    assert pays(58 * 60)


@pytest.mark.parametrize(("values", "device", "ranks", "found"), [
    ({}, "cpu", 1, ""),
    ({"micro_batch": 4}, "cpu", 1, ""),
    ({"micro_batch": 3}, "cpu", 1, "micro_batch=3 divides a batch of 4"),
    ({"micro_batch": 2}, "cpu", 2, ""),
    ({"micro_batch": 1}, "cpu", 2, "micro_batch=1 divides a batch of 4"),
    ({}, "mps", 1, "neither a CPU nor an NVIDIA GPU"),
])  # fmt: skip
def test_obstacles_name_what_to_do(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], device: str, ranks: int,
    found: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    config = TrainConfig(**settings | values)
    reason = obstacle(config, torch.device(device), ranks)
    assert reason.startswith(found) if found.startswith("micro") else found in reason
    assert bool(reason) == bool(found)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "install g++" in obstacle(TrainConfig(**settings), CPU, 1)


def test_a_network_that_cannot_be_compiled_is_an_input_error_before_the_first_step(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"compile": "true", "micro_batch": 2})
    model, data = prepared(config)
    with pytest.raises(InputError, match="compile=true is not possible: micro_batch=2 .* or set compile=false"):
        next(train(model, data, config))


class Small(torch.nn.Module):
    """Two convolutions with batch norm between them, which compile in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 1, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.classifier = torch.nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.classifier(self.backbone(images))}


def trained(config: TrainConfig) -> tuple[list[Epoch], list[str]]:
    model, data = prepared(config)
    torch.manual_seed(0)
    model.network = Small()
    epochs = []
    for epoch in train(model, data, config):
        assert model.network._compiled_call_impl is None, "outside an epoch it is the ordinary network"
        epochs.append(epoch)
    return epochs, list(model.state_dict())


@pytest.mark.skipif(obstacle(TrainConfig(), CPU, 1) != "", reason="there is no C++ compiler")
def test_a_compiled_network_gives_the_same_metrics_and_names(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled without machine code, which takes a minute; `benchmarks step` compares that."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    config = TrainConfig(**settings | {"epochs": 2})
    plain, names = trained(config)
    assert [epoch.compile_seconds for epoch in plain] == [0, 0]
    compiled, names_of_compiled = trained(replace(config, compile="true"))
    assert names_of_compiled == names == list(compiled[-1].checkpoint.network)
    assert 0 < compiled[0].compile_seconds < compiled[0].seconds
    assert compiled[1].compile_seconds == 0, "all modes and sizes were met in the first epoch"
    for ours, theirs in zip(compiled, plain, strict=True):
        for name, value in theirs.metrics().items():
            if name not in (*TIMED, "val/ece_low", "val/ece_high"):
                assert ours.metrics()[name] == pytest.approx(value, rel=1e-4, abs=1e-4, nan_ok=True), name

    short, _ = trained(replace(config, compile="auto"))
    assert [epoch.compile_seconds for epoch in short] == [0, 0]
    monkeypatch.setattr(compilation, "MARGIN", 0.0)
    torch._dynamo.reset()  # equal networks share their code
    long, _ = trained(replace(config, compile="auto"))
    assert long[0].compile_seconds == 0 < long[1].compile_seconds
    assert long[0].train_loss == plain[0].train_loss
