"""Real, tiny training: lraspp on pictures of 32 x 32 pixels."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmentation.data import load_split
from segmentation.errors import DivergedError, InputError
from segmentation.models.segmenter import Segmenter, build
from segmentation.scoring.scores import Scores
from segmentation.training import checkpoints
from segmentation.training.augmentation import Augmentation
from segmentation.training.loop import Data, Epoch, train
from segmentation.training.norm_statistics import one_update
from studies.config import TrainConfig


@pytest.fixture
def settings(own_data: Path) -> dict[str, Any]:
    return {
        "dataset": "folder", "data_dir": str(own_data), "resize": 32, "crop": 32, "device": "cpu",
        "model": "lraspp_mobilenet_v3_large", "epochs": 2, "batch_size": 4, "learning_rate": 0.02,
    }  # fmt: skip


class Greedy(torch.nn.Module):
    """A network that asks for an exabyte."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.backbone(images).repeat(1, 1, 2**23, 2**23)}


def prepared(config: TrainConfig) -> tuple[Segmenter, Data]:
    data = Data(load_split(config, "train"), load_split(config, "val"))
    torch.manual_seed(config.seed)
    return build(config, len(data.train.labels)), data


def trained(config: TrainConfig) -> tuple[list[Epoch], Segmenter]:
    network, data = prepared(config)
    return list(train(network, data, config)), network


def figures(epochs: list[Epoch]) -> list[dict[str, float]]:
    timed = ("epoch_seconds", "images_per_second")
    return [{name: v for name, v in epoch.metrics().items() if name not in timed} for epoch in epochs]


def test_the_same_command_twice_gives_identical_numbers(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings, flip=0.5, scale_min=0.8, scale_max=1.3, color_jitter=0.3)
    first, network = trained(config)
    torch.rand(7)  # what happens elsewhere to torch's global state does not matter
    second, other = trained(config)
    assert figures(first) == figures(second)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    third, _ = trained(TrainConfig(**settings | {"seed": 1}))
    assert figures(third) != figures(first)


def test_it_learns(settings: dict[str, Any]) -> None:
    epochs, _ = trained(TrainConfig(**settings | {"epochs": 12, "batch_norm_momentum": 0.1}))
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss
    assert epochs[-1].train_pixel_accuracy > epochs[0].train_pixel_accuracy + 0.1


def test_an_epoch_reports_what_was_measured(settings: dict[str, Any]) -> None:
    (first, second), _ = trained(TrainConfig(**settings))
    assert (first.number, second.number) == (1, 2)
    metrics = second.metrics()
    assert metrics["learning_rate"] == 0.02
    assert metrics["val/loss"] == second.val.metrics()["loss"]
    assert set(second.val.class_iou()) <= {"red", "green", "blue"}
    assert second.seconds > 0
    assert second.images_per_second > 0
    assert second.checkpoint.epoch == 2


def one_step_by_hand(network: Segmenter, data: Data, config: TrainConfig) -> torch.Tensor:
    """The gradient of the mean loss over one batch with all training images, written out."""
    images, masks = data.train.gather(np.arange(len(data.train)))
    network.train()
    loss = F.cross_entropy(network(images), masks.long(), ignore_index=255)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_one_step_of_sgd_is_the_one_written_out_by_hand(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"epochs": 1, "batch_size": 6, "weight_decay": 0.0, "channels_last": False})
    network, data = prepared(config)
    by_hand = copy.deepcopy(network)
    torch.manual_seed(0)
    gradient = one_step_by_hand(by_hand, data, config)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    (epoch,) = list(train(network, data, config))
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    torch.testing.assert_close(after, before - 0.02 * gradient, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        images, masks = data.train.gather(np.arange(6))
        fresh = prepared(config)[0].train()
        expected = F.cross_entropy(fresh(images), masks.long(), ignore_index=255).item()
    assert epoch.train_loss == pytest.approx(expected, rel=1e-4)


def without_batch_norm(network: Segmenter) -> Segmenter:
    """Batch norm alone makes small forward passes differ from large ones; hold it still."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
            module.train = lambda mode=True, module=module: module
            module.training = False
    return network


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(settings: dict[str, Any]) -> None:
    parameters = []
    for micro_batch in (None, 2, 4):
        config = TrainConfig(**settings | {"epochs": 1, "batch_size": 6, "micro_batch": micro_batch})
        network, data = prepared(config)
        (epoch,) = list(train(without_batch_norm(network), data, config))
        parameters.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
        assert math.isfinite(epoch.train_loss)
    torch.testing.assert_close(parameters[1], parameters[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parameters[2], parameters[0], rtol=1e-4, atol=1e-6)


def test_a_frozen_backbone_does_not_change_until_its_epochs_are_over(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"freeze_backbone": 1})
    network, data = prepared(config)
    start = copy.deepcopy(network.state_dict())
    changed = []
    for _ in train(network, data, config):
        now = network.state_dict()
        changed.append({name for name in start if not torch.equal(start[name], now[name])})
    assert changed[0]
    assert not any("backbone" in name for name in changed[0])
    assert any("backbone" in name and "running_mean" in name for name in changed[1])
    assert any("backbone" in name and "weight" in name for name in changed[1])


def test_frozen_batch_norm_stays_as_it_starts_while_the_rest_learns(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"freeze_batch_norm": True, "freeze_backbone": 1, "weight_decay": 0.01})
    network, data = prepared(config)
    start = copy.deepcopy(network.state_dict())
    inside = [
        f"network.backbone.{name}."
        for name, module in network.backbone.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    list(train(network, data, config))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(start[name], tensor)}
    assert inside
    assert not [name for name in changed if name.startswith(tuple(inside))]
    assert any("backbone" in name for name in changed)
    assert any("backbone" not in name and "running_mean" in name for name in changed)


def test_an_auxiliary_head_learns_too(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"model": "fcn_resnet50", "auxiliary_loss": 0.5, "epochs": 1})
    network, data = prepared(config)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    list(train(network, data, config))
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, start[name])]
    assert any("aux_classifier.4.weight" in name for name in moved)


def test_a_loss_that_is_no_longer_finite_names_epoch_step_and_rate(settings: dict[str, Any]) -> None:
    network, data = prepared(TrainConfig(**settings))
    with pytest.raises(DivergedError, match=r"in epoch \d+, step \d+ of 2 \(learning_rate=1e\+30\)|after epoch \d"):
        list(train(network, data, TrainConfig(**settings | {"learning_rate": 1e30})))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(
    settings: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    config = TrainConfig(**settings | {
        "epochs": 3, "flip": 0.5, "optimizer": optimizer, "schedule": "polynomial", "monitor": "val/ece",
    })  # fmt: skip
    whole, network = trained(config)
    broken, data = prepared(config)
    for epoch in train(broken, data, config):
        if epoch.number == 2:
            checkpoints.save(epoch.checkpoint, tmp_path / "last.pt")
            break
    other, _ = prepared(TrainConfig(**settings | {"seed": 5}))
    rest = list(train(other, data, config, checkpoints.load(tmp_path / "last.pt")))
    assert [epoch.number for epoch in rest] == [3]
    assert figures(rest) == figures(whole[2:])
    assert rest[0].is_best == whole[2].is_best
    assert rest[0].checkpoint.best_epoch == whole[2].checkpoint.best_epoch
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_training_that_had_run_out_of_patience_does_not_go_on(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"epochs": 9, "patience": 1})
    network, data = prepared(config)
    checkpoint = next(train(network, data, config)).checkpoint
    done = replace(checkpoint, epoch=2, best_epoch=1)
    assert list(train(network, data, config, done)) == []


def test_early_stopping_waits_for_its_patience(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"learning_rate": 0.0, "epochs": 9, "patience": 2, "monitor": "val/ece"})
    network, data = prepared(config)
    for module in network.modules():  # nothing moves, so no epoch is better than the first
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    epochs = list(train(network, data, config))
    assert [epoch.is_best for epoch in epochs] == [True, False, False]


def test_the_best_epoch_is_the_one_with_the_best_monitor(settings: dict[str, Any]) -> None:
    epochs, _ = trained(TrainConfig(**settings | {"epochs": 5, "monitor": "val/pixel_accuracy"}))
    values = [epoch.metrics()["val/pixel_accuracy"] for epoch in epochs]
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    assert values.index(max(values)) == best - 1
    assert epochs[-1].checkpoint.best_epoch == best
    assert epochs[-1].checkpoint.best_value == max(values)


def test_who_iterates_may_stop_and_keep_the_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    network, data = prepared(TrainConfig(**settings))
    epoch = next(train(network, data, TrainConfig(**settings)))
    checkpoints.save(epoch.checkpoint, tmp_path / "last.pt")
    loaded = checkpoints.load(tmp_path / "last.pt")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor.contiguous(), loaded.network[name].contiguous())


def test_bfloat16_training_is_scored_in_float32(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"precision": "bfloat16", "epochs": 1})
    network, data = prepared(config)
    (epoch,) = train(network, data, config)
    assert math.isfinite(epoch.train_loss)
    expected = Scores(data.val.labels, config.boundary_width)
    images, masks = data.val.gather(np.arange(len(data.val)))
    with torch.no_grad():
        expected.update(network.eval()(images), masks)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images)
    assert epoch.val.metrics() == pytest.approx(expected.metrics(), rel=1e-6)
    assert (rounded.float().softmax(1) - network(images).softmax(1)).abs().max() > 1e-5, "the precision matters here"


def test_what_layers_draw_and_what_augmentation_draws_have_seeds_of_their_own(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int]] = []
    draw = Augmentation.draw

    def noted(self: Augmentation, images: int, random: torch.Generator) -> torch.Tensor:
        seeds.append((torch.initial_seed(), random.initial_seed()))
        return draw(self, images, random)

    monkeypatch.setattr(Augmentation, "draw", noted)
    trained(TrainConfig(**settings | {"flip": 0.5}))
    assert all(own != other for own, other in seeds)
    assert len(set(seeds)) == 2, "of each epoch"


def test_deterministic_kernels_are_switched_on_for_each_epoch_alone(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    (plain, _), _ = trained(TrainConfig(**settings))
    config = TrainConfig(**settings | {"deterministic": True})
    network, data = prepared(config)
    on: list[bool] = []
    network.register_forward_hook(lambda *_: on.append(torch.are_deterministic_algorithms_enabled()))
    network.backbone.register_forward_hook(lambda *_: on.append(torch.are_deterministic_algorithms_enabled()))
    epochs = train(network, data, config)
    first = next(epochs)
    assert not torch.are_deterministic_algorithms_enabled()
    epochs.close()
    assert on
    assert all(on)
    assert first.metrics()["val/loss"] == pytest.approx(plain.metrics()["val/loss"], rel=1e-4)


@pytest.mark.parametrize("micro_batch", [2, 4, None])
def test_running_statistics_move_once_a_step(settings: dict[str, Any], micro_batch: int | None) -> None:
    """Those of the stem, whose input is the images whatever the forward passes are, worked out by hand."""
    config = TrainConfig(**settings | {
        "epochs": 1, "batch_size": 6, "micro_batch": micro_batch, "batch_norm_momentum": 0.1, "channels_last": False,
    })  # fmt: skip
    network, data = prepared(config)
    stem = network.backbone.get_submodule("0")
    images, _ = data.train.gather(np.arange(6))
    with torch.no_grad():
        values = stem[0]((images.float() - network.mean) / network.deviation).double()
    list(train(network, data, config))
    norm = stem[1]
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * values.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * values.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert {
        (module.momentum, module.num_batches_tracked.item())
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    } == {(0.1, 1)}


def test_running_statistics_of_any_parts_are_those_of_all_values() -> None:
    torch.manual_seed(0)
    values = 3 * torch.randn(7, 4, 5, 6) + torch.arange(4.0)[:, None, None]
    whole, parts, still = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval()
    whole(values)
    with one_update(nn.Sequential(parts, still)):
        for part in values.split([3, 1, 3]):
            still(parts(part))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor)
    assert torch.equal(still.running_mean, torch.zeros(4))
    parts(values)
    whole(values)
    torch.testing.assert_close(parts.running_var, whole.running_var)


@pytest.mark.parametrize("more", [{"batch_size": 1}, {"micro_batch": 1}])
def test_one_image_at_a_time_is_refused_where_batch_norm_cannot_learn_from_it(
    settings: dict[str, Any], more: dict[str, int]
) -> None:
    network, data = prepared(TrainConfig(**settings | {"model": "deeplabv3_resnet50"}))
    with pytest.raises(InputError, match=r"batch norm cannot learn from 1 image\(s\) of 32 x 32 pixels"):
        next(train(network, data, TrainConfig(**settings | more)))


def test_a_batch_that_does_not_fit_in_memory_is_told(settings: dict[str, Any]) -> None:
    """torch's own allocator refuses: the pictures are blown up to more memory than any machine has."""
    network, data = prepared(TrainConfig(**settings))
    network.network = Greedy()
    with pytest.raises(InputError, match="there is not enough memory for 4 images of 32 x 32 pixels"):
        next(train(network, data, TrainConfig(**settings | {"model": "lraspp_mobilenet_v3_large"})))


def test_adamw_and_a_single_image_left_over(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"optimizer": "adamw", "learning_rate": 1e-3, "batch_size": 5, "epochs": 1})
    epochs, _ = trained(config)
    assert math.isfinite(epochs[0].train_loss)
