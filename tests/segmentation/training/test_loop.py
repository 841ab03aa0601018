"""Short training runs of a small model on images of 32 x 32 pixels."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmentation.data.training_images import TrainingImages
from segmentation.errors import DivergedError
from segmentation.models.segmenter import Segmenter
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.scores import Scores
from segmentation.training import checkpoints
from segmentation.training.augmentation import Augmentation
from segmentation.training.loop import Epoch, train
from studies.config import TrainConfig
from tests.segmentation.training.models import TIMED, hold_batch_norm, prepared


def trained(config: TrainConfig) -> tuple[list[Epoch], Segmenter]:
    model, data = prepared(config)
    return list(train(model, data, config)), model


def metrics_of(epochs: list[Epoch]) -> list[dict[str, float]]:
    return [{name: v for name, v in epoch.metrics().items() if name not in TIMED} for epoch in epochs]


def test_the_same_command_twice_gives_identical_metrics(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"epochs": 1, "flip": 0.5, "scale_min": 0.8, "color_jitter": 0.3})
    first, model = trained(config)
    torch.rand(7)  # torch's global state has no effect
    second, other = trained(config)
    assert metrics_of(first) == metrics_of(second)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    third, _ = trained(replace(config, seed=1))
    assert metrics_of(third) != metrics_of(first)


def test_center_crops_from_whole_images_give_the_metrics_of_cropped_ones(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(**settings | {"epochs": 1, "crop": 24})
    expected, _ = trained(config)
    random, _ = trained(replace(config, crop_at="random"))
    assert metrics_of(random) != metrics_of(expected)

    def corner(self: TrainingImages, mask: np.ndarray, draws: np.ndarray) -> tuple[int, int]:
        return tuple(round((side - 24) / 2) for side in mask.shape)  # type: ignore[return-value]

    monkeypatch.setattr(TrainingImages, "corner", corner)
    whole, _ = trained(replace(config, crop_at="random"))
    assert metrics_of(whole) == metrics_of(expected)


def test_a_model_learns_and_the_best_epoch_is_the_one_with_the_best_monitor(settings: dict[str, Any]) -> None:
    epochs, _ = trained(
        TrainConfig(**settings | {"epochs": 8, "batch_norm_momentum": 0.1, "monitor": "val/pixel_accuracy"})
    )
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss
    assert epochs[-1].train_pixel_accuracy > epochs[0].train_pixel_accuracy + 0.1
    values = [epoch.metrics()["val/pixel_accuracy"] for epoch in epochs]
    best = max(epoch.number for epoch in epochs if epoch.is_best)
    assert values.index(max(values)) == best - 1
    assert epochs[-1].checkpoint.best_epoch == best
    assert epochs[-1].checkpoint.best_value == max(values)


def test_a_frozen_backbone_does_not_change_until_its_epochs_are_over(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"freeze_backbone": 1})
    model, data = prepared(config)
    start = copy.deepcopy(model.state_dict())
    changed = []
    for _ in train(model, data, config):
        now = model.state_dict()
        changed.append({name for name in start if not torch.equal(start[name], now[name])})
    assert changed[0]
    assert not any("backbone" in name for name in changed[0])
    assert any("backbone" in name and "running_mean" in name for name in changed[1])
    assert any("backbone" in name and "weight" in name for name in changed[1])


def test_frozen_batch_norm_does_not_change_while_the_other_layers_learn(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"freeze_batch_norm": True, "freeze_backbone": 1, "weight_decay": 0.01})
    model, data = prepared(config)
    start = copy.deepcopy(model.state_dict())
    frozen = tuple(
        f"network.backbone.{name}."
        for name, module in model.backbone.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    )
    list(train(model, data, config))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(start[name], tensor)}
    assert frozen
    assert not [name for name in changed if name.startswith(frozen)]
    assert any("backbone" in name for name in changed)
    assert any("backbone" not in name and "running_mean" in name for name in changed)


def test_an_auxiliary_head_learns(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {
        "model": "fcn_resnet50", "auxiliary_loss": 0.5, "epochs": 1, "batch_size": 6, "resize": 16, "crop": 16,
    })  # fmt: skip
    model, data = prepared(config)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(train(model, data, config))
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start[name])]
    assert any("aux_classifier.4.weight" in name for name in changed)


def test_a_loss_that_is_not_finite_names_epoch_step_and_learning_rate(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"learning_rate": 1e30})
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2 of 2 \(learning_rate=1e\+30\)"):
        trained(config)


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "crop": 24, "crop_at": "class", "score_crop": "whole", "sampling": "class_balanced"},
        {"optimizer": "adamw", "rotation": 20.0, "blur": 0.5, "crop": 24, "crop_at": "random"},
        {"ema": 0.5, "loss": "lovasz", "class_weights": "inverse"},
    ],
    ids=str,
)
def test_a_run_resumes_from_its_checkpoint_as_if_it_had_not_stopped(
    settings: dict[str, Any], tmp_path: Path, values: dict[str, Any]
) -> None:
    config = TrainConfig(**settings | values | {
        "batch_size": 5, "flip": 0.5, "schedule": "polynomial", "monitor": "val/ece",
    })  # fmt: skip
    model, data = prepared(config)
    epochs = train(model, data, config)
    checkpoints.save(next(epochs).checkpoint, tmp_path / "last.pt")
    expected = next(epochs)
    other, _ = prepared(replace(config, seed=5))
    (resumed,) = train(other, data, config, checkpoints.load(tmp_path / "last.pt"))
    assert resumed.number == 2
    assert metrics_of([resumed]) == metrics_of([expected])
    assert resumed.is_best == expected.is_best
    assert resumed.checkpoint.best_epoch == expected.checkpoint.best_epoch
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_moving_average_is_scored_and_kept_and_the_trained_weights_go_on(settings: dict[str, Any]) -> None:
    """Beside a run without an average, whose weights after every step are averaged by hand."""
    config = TrainConfig(**settings | {"batch_size": 6, "epochs": 3})  # one step per epoch
    model, data = prepared(config)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    averages = []
    for epoch in train(model, data, config):
        decay = min(0.3, epoch.number / (9 + epoch.number))
        for name, value in epoch.checkpoint.network.items():
            average[name] = average[name] * decay + value * (1 - decay) if value.is_floating_point() else value.clone()
        averages.append({name: value.clone() for name, value in average.items()})
    averaged, _ = prepared(config)
    for expected, epoch in zip(averages, train(averaged, data, replace(config, ema=0.3)), strict=True):
        for name, value in epoch.checkpoint.network.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    for name, value in epoch.checkpoint.trained.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, averages[-1][name], rtol=1e-4, atol=1e-5)


class Scripted:
    """Stands for the scores of an epoch."""

    def __init__(self, mean_iou: float, loss: float) -> None:
        self._metrics = {"mean_iou": mean_iou, "loss": loss}

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def ece_interval(self, _: int) -> Interval:
        return Interval(0.0, 0.0)


def test_of_epochs_with_equal_monitor_the_one_with_the_lower_loss_is_best(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = [(0.2, 1.0), (0.2, 0.9), (0.3, 1.2), (0.3, 1.2), (0.3, 1.3), (0.1, 0.5)]
    wanted = [True, True, True, False, False, False]
    config = TrainConfig(**settings | {"epochs": len(script), "learning_rate": 0.0})
    assert config.monitor == "val/mean_iou"
    model, data = prepared(config)
    scores = iter([Scripted(*each) for each in script])
    monkeypatch.setattr("segmentation.training.loop._score", lambda *_: next(scores))
    monkeypatch.setattr("segmentation.training.loop._train_epoch", lambda *_: (1.0, 0.5, 0.0))
    epochs = []
    for epoch in train(model, data, config):
        checkpoints.save(epoch.checkpoint, tmp_path / f"{epoch.number}.pt")
        epochs.append(epoch)
    assert [epoch.is_best for epoch in epochs] == wanted
    assert (epochs[-1].checkpoint.best_epoch, epochs[-1].checkpoint.best_value) == (3, 0.3)

    scores = iter([Scripted(*each) for each in script[1:]])
    resumed = train(model, data, config, checkpoints.load(tmp_path / "1.pt"))
    assert [epoch.is_best for epoch in resumed] == wanted[1:]
    content = torch.load(tmp_path / "1.pt", weights_only=True)
    del content["best_loss"]  # of an earlier version: the earlier epoch stays
    torch.save(content, tmp_path / "earlier.pt")
    scores = iter([Scripted(*each) for each in script[1:]])
    resumed = train(model, data, config, checkpoints.load(tmp_path / "earlier.pt"))
    assert [epoch.is_best for epoch in resumed] == [False, *wanted[2:]]


def test_early_stopping_waits_for_its_patience_and_such_a_run_does_not_resume(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"learning_rate": 0.0, "epochs": 9, "patience": 1, "monitor": "val/ece"})
    model, data = prepared(config)
    epochs = list(train(hold_batch_norm(model), data, config))  # nothing changes, so no epoch is better than the first
    assert [epoch.is_best for epoch in epochs] == [True, False]
    assert list(train(model, data, config, epochs[-1].checkpoint)) == []


def test_a_run_in_bfloat16_is_scored_in_float32(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"precision": "bfloat16", "epochs": 1})
    model, data = prepared(config)
    (epoch,) = train(model, data, config)
    assert math.isfinite(epoch.train_loss)
    expected = Scores(data.val.labels, config.boundary_width)
    images, masks = data.val.gather(np.arange(len(data.val)))
    with torch.no_grad():
        expected.update(model.eval()(images), masks)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images)
        assert (rounded.float().softmax(1) - model(images).softmax(1)).abs().max() > 1e-5, "the precision matters here"
    assert epoch.val.metrics() == pytest.approx(expected.metrics(), rel=1e-6)


def test_layers_and_augmentation_have_different_seeds_in_every_epoch(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int]] = []
    draw = Augmentation.draw

    def recorded(self: Augmentation, images: int, random: torch.Generator) -> torch.Tensor:
        seeds.append((torch.initial_seed(), random.initial_seed()))
        return draw(self, images, random)

    monkeypatch.setattr(Augmentation, "draw", recorded)
    trained(TrainConfig(**settings | {"flip": 0.5}))
    assert all(of_layers != of_augmentation for of_layers, of_augmentation in seeds)
    assert len(set(seeds)) == 2


def test_deterministic_kernels_are_used_only_inside_epochs(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    (plain,), _ = trained(TrainConfig(**settings | {"epochs": 1}))
    config = TrainConfig(**settings | {"deterministic": True})
    model, data = prepared(config)
    inside: list[bool] = []
    model.register_forward_hook(lambda *_: inside.append(torch.are_deterministic_algorithms_enabled()))
    model.backbone.register_forward_hook(lambda *_: inside.append(torch.are_deterministic_algorithms_enabled()))
    epochs = train(model, data, config)
    first = next(epochs)
    assert not torch.are_deterministic_algorithms_enabled()
    epochs.close()
    assert inside
    assert all(inside)
    assert first.metrics()["val/loss"] == pytest.approx(plain.metrics()["val/loss"], rel=1e-4)
