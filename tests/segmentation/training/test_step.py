import copy
import math
import sys
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmentation.errors import InputError
from segmentation.training import optimizers
from segmentation.training.loop import train
from segmentation.training.process_group import ProcessGroup
from segmentation.training.step import TrainingStep
from studies.config import TrainConfig
from tests.segmentation.training.models import hold_batch_norm, prepared

CPU = torch.device("cpu")


def test_one_step_of_sgd_is_the_one_written_out_by_hand(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"epochs": 1, "batch_size": 6, "weight_decay": 0.0, "channels_last": False})
    model, data = prepared(config)
    by_hand = copy.deepcopy(model).train()
    images, masks = data.train.gather(np.arange(6))
    expected = F.cross_entropy(by_hand(images), masks.long(), ignore_index=255)
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in by_hand.parameters() if p.grad is not None])
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    (epoch,) = list(train(model, data, config))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(after, before - 0.02 * gradient, rtol=1e-3, atol=1e-5)
    assert epoch.train_loss == pytest.approx(expected.item(), rel=1e-4)


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(settings: dict[str, Any]) -> None:
    parameters = []
    for micro_batch in (None, 4):
        config = TrainConfig(**settings | {"batch_size": 6, "micro_batch": micro_batch})
        model, data = prepared(config)
        step = TrainingStep(hold_batch_norm(model).train(), config, CPU, ProcessGroup())
        assert math.isfinite(step(*data.train.gather(np.arange(6)), 6).loss_sum)
        parameters.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(parameters[1], parameters[0], rtol=1e-4, atol=1e-6)


def test_a_long_gradient_is_scaled_down_to_the_norm(settings: dict[str, Any]) -> None:
    moved = {}
    for clip in (None, 1e-3, 1e6):
        config = TrainConfig(**settings | {"batch_size": 6, "momentum": 0.0, "gradient_clip": clip})
        model, data = prepared(config)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        step = TrainingStep(hold_batch_norm(model).train(), config, CPU, ProcessGroup())
        optimizers.set_learning_rate(step.optimizer, 1.0)
        step(*data.train.gather(np.arange(6)), 6)
        moved[clip] = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved[1e-3].norm().item() == pytest.approx(1e-3, rel=1e-2)
    torch.testing.assert_close(moved[1e-3] / moved[1e-3].norm(), moved[None] / moved[None].norm(), atol=1e-3, rtol=0)
    torch.testing.assert_close(moved[1e6], moved[None])


def test_progress_advances_with_each_micro_batch(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"batch_size": 6, "micro_batch": 2})
    model, data = prepared(config)
    images, masks = data.train.gather(np.arange(6))
    step, advanced = TrainingStep(model.train(), config, CPU, ProcessGroup()), list[int]()
    step(images, masks, 6, advanced.append)
    assert advanced == [2, 2, 2]


def test_python_runs_between_the_layers_of_a_backward_pass(settings: dict[str, Any]) -> None:
    """Python handles signals only while it runs: without this, Ctrl-C would wait for the end of the pass."""
    model, data = prepared(TrainConfig(**settings))
    step = TrainingStep(model.train(), TrainConfig(**settings), CPU, ProcessGroup())
    gradients = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal gradients
        gradients += event == "call" and "gradient" in frame.f_code.co_varnames

    sys.setprofile(count)
    try:
        step(*data.train.gather(np.arange(4)), 4)
    finally:
        sys.setprofile(None)
    assert gradients >= sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) > 4


@pytest.mark.parametrize("micro_batch", [4, None])
def test_running_statistics_are_updated_once_a_step(settings: dict[str, Any], micro_batch: int | None) -> None:
    """Computed by hand for the stem, whose input is the images."""
    config = TrainConfig(**settings | {
        "batch_size": 6, "micro_batch": micro_batch, "batch_norm_momentum": 0.1, "channels_last": False,
    })  # fmt: skip
    model, data = prepared(config)
    stem = model.backbone.get_submodule("low")
    images, masks = data.train.gather(np.arange(6))
    with torch.no_grad():
        values = stem[0]((images.float() - 127.5) / 127.5).double()
    TrainingStep(model.train(), config, CPU, ProcessGroup())(images, masks, 6)
    norm = stem[1]
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * values.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * values.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert {
        (module.momentum, module.num_batches_tracked.item())
        for module in model.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    } == {(0.1, 1)}


def test_single_images_are_refused_where_batch_norm_needs_more(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"model": "deeplabv3_resnet50"})
    model, data = prepared(config)
    model.train()
    images, masks = data.train.gather(np.arange(2))
    for batch, micro_batch in ((1, None), (2, 1)):
        step = TrainingStep(model, replace(config, micro_batch=micro_batch), CPU, ProcessGroup())
        with pytest.raises(InputError, match=r"more than 1 image of 32 x 32 pixels .* batch_size and micro_batch"):
            step(images[:batch], masks[:batch], batch)


class Huge(torch.nn.Module):
    """A network that needs an exabyte of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.backbone(images).repeat(1, 1, 2**23, 2**23)}


def test_a_batch_that_does_not_fit_in_memory_is_an_input_error(settings: dict[str, Any]) -> None:
    model, data = prepared(TrainConfig(**settings))
    model.network = Huge()
    with pytest.raises(InputError, match="not enough memory .* 4 images of 32 x 32 pixels: set a smaller micro_batch"):
        next(train(model, data, TrainConfig(**settings)))
