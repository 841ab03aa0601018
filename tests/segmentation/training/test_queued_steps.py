"""Steps are queued on the device: nothing waits for them within an epoch, and the weights are those of a plain loop.

Fused optimizers, which GPUs use, also work on the CPU; there they differ from the others in the last digit.
"""

import copy
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segmentation.data import Split
from segmentation.data.batches import index_batches
from segmentation.data.training_images import TrainingImages
from segmentation.errors import DivergedError
from segmentation.models.segmenter import Segmenter
from segmentation.training import optimizers
from segmentation.training.loop import _train_epoch, train
from segmentation.training.prefetch import Batch, ahead, on_device
from segmentation.training.process_group import ProcessGroup
from segmentation.training.step import TrainingStep
from studies.config import TrainConfig
from tests.segmentation.training.models import hold_batch_norm, prepared

CPU = torch.device("cpu")
WAITING = ("_local_scalar_dense", "nonzero", "bincount", "unique", "masked_select", "is_nonzero", "equal")
"""Beginnings of the names of operations for which the host waits for a GPU."""


@pytest.fixture
def as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "is_fused_on", lambda device: True)


def weights(model: Segmenter) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def one_epoch(step: TrainingStep, split: Split) -> tuple[float, float, float]:
    """Loss, accuracy and learning rate of the first epoch."""
    return _train_epoch(step, TrainingImages(step.config, split), step.config, ProcessGroup(), 1, None)


def test_two_epochs_are_those_of_a_plain_loop_to_the_last_digit(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"weight_decay": 0.01, "gradient_clip": 1.0})
    model, data = prepared(config)
    plain = copy.deepcopy(model)
    plain.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), config.learning_rate, config.momentum, weight_decay=0.01)
    for epoch in train(model, data, config):
        seeds = np.random.SeedSequence([config.seed, epoch.number]).generate_state(3)
        torch.manual_seed(int(seeds[2]))
        loss_sum, pixels = 0.0, 0
        plain.train()
        for indices in index_batches(np.random.default_rng(seeds[0]).permutation(6), 4):
            images = torch.from_numpy(data.train.images[indices]).permute(0, 3, 1, 2)
            masks = torch.from_numpy(data.train.masks[indices]).long()
            loss = F.cross_entropy(plain(images), masks, ignore_index=255, reduction="sum")
            optimizer.zero_grad()
            (loss / int((masks != 255).sum())).backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            loss_sum, pixels = loss_sum + loss.item(), pixels + int((masks != 255).sum())
        assert epoch.train_loss == loss_sum / pixels
        for name, value in plain.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


class Waits(TorchDispatchMode):
    """Counts operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name.startswith(WAITING) or by_mask:
            self.found[name] += 1
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("values", [
    {}, {"optimizer": "adamw"}, {"gradient_clip": 1.0, "micro_batch": 1, "freeze_batch_norm": True},
    {"loss": "cross_entropy+dice", "class_weights": "inverse"}, {"loss": "focal", "ema": 0.9},
], ids=str)  # fmt: skip
@pytest.mark.usefixtures("as_on_gpus")
def test_the_host_waits_as_often_in_an_epoch_of_two_steps_as_in_one_of_one(
    settings: dict[str, Any], values: dict[str, Any]
) -> None:
    found = []
    for batch_size in (6, 3):
        config = TrainConfig(**settings | {"epochs": 1, "batch_size": batch_size, **values})
        model, data = prepared(config)
        weights_of_classes = torch.tensor([1.0, 2.0, 0.5]) if config.class_weights != "none" else None
        step = TrainingStep(hold_batch_norm(model), config, CPU, ProcessGroup(), weights_of_classes)
        with Waits() as waits:
            one_epoch(step, data.train)
        found.append(waits.found)
    assert found[0] == found[1]
    assert found[0].total() <= 3


class Diverges(TrainingStep):
    """The loss of one step is not a number, though its weights are finite."""

    step, bad = 0, 2

    def __call__(self, images: torch.Tensor, *rest: Any) -> Any:
        self.step += 1
        self.before = weights(self.model) if self.step == self.bad else getattr(self, "before", None)
        hook = self.model.network.register_forward_hook(
            lambda _, __, outputs: {name: value * float("nan" if self.step == self.bad else 1) for name, value in
                                    outputs.items()}
        )  # fmt: skip
        try:
            return super().__call__(images, *rest)
        finally:
            hook.remove()


@pytest.mark.parametrize(("optimizer", "fused"), [("sgd", True), ("adamw", True), ("sgd", False), ("adamw", False)])
@pytest.mark.parametrize("bad", [1, 2, 3])
def test_after_a_divergence_the_parameters_are_those_before_the_step_with_that_loss(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, optimizer: str, fused: bool, bad: int
) -> None:
    """The next step, which is queued before the loss is known, has a finite loss and changes nothing either."""
    monkeypatch.setattr(optimizers, "is_fused_on", lambda device: fused)
    config = TrainConfig(**settings | {"batch_size": 2, "optimizer": optimizer, "weight_decay": 0.1})
    model, data = prepared(config)
    step = Diverges(model, config, CPU, ProcessGroup())
    step.bad = bad
    with pytest.raises(DivergedError, match=rf"the loss is nan in epoch 1, step {bad} of 3 \(learning_rate=0.02\)"):
        one_epoch(step, data.train)
    assert step.step == min(bad + 1, 3)
    assert torch.equal(weights(model), step.before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_batch_that_augmentation_has_made_void_changes_no_weight_and_no_momentum(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, optimizer: str, fused: bool
) -> None:
    monkeypatch.setattr(optimizers, "is_fused_on", lambda device: fused)
    config = TrainConfig(**settings | {"optimizer": optimizer, "weight_decay": 0.1})
    ends = []
    for void_batches in (0, 2):
        model, data = prepared(config)
        step = TrainingStep(hold_batch_norm(model).train(), config, CPU, ProcessGroup())
        torch.manual_seed(0)
        images, masks = data.train.gather(np.arange(4))
        for _ in range(void_batches):
            result = step(images, torch.full_like(masks, 255), 4)
            assert [value.item() for value in result] == [0, 0, 0, 0]
        torch.manual_seed(0)
        assert step(images, masks, 4).pixels == (masks != 255).sum()
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_a_batch_that_is_void_before_augmentation_is_skipped_as_a_whole(settings: dict[str, Any]) -> None:
    config = TrainConfig(**settings | {"epochs": 1, "batch_size": 2})
    model, data = prepared(config)
    masks = data.train.masks.copy()
    order = np.random.default_rng(np.random.SeedSequence([0, 1]).generate_state(3)[0]).permutation(6)
    masks[order[2:4]] = 255
    steps: list[int] = []

    class Counted(TrainingStep):
        def __call__(self, images: torch.Tensor, *rest: Any) -> Any:
            steps.append(len(images))
            return super().__call__(images, *rest)

    split = replace(data.train, masks=masks)
    loss, _, _ = one_epoch(Counted(model, config, CPU, ProcessGroup()), split)
    assert steps == [2, 2]
    assert 0 < loss < 10
    void = replace(split, masks=np.full_like(masks, 255))
    loss, accuracy, _ = one_epoch(Counted(model, config, CPU, ProcessGroup()), void)
    assert np.isnan([loss, accuracy]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_a_gpu_resumes_on_the_cpu_and_the_other_way_round(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    config = TrainConfig(**settings | {"optimizer": optimizer})
    for before, after in ((True, False), (False, True)):
        monkeypatch.setattr(optimizers, "is_fused_on", lambda device, before=before: before)
        model, data = prepared(config)
        epochs = train(model, data, config)
        start = copy.deepcopy(next(epochs).checkpoint)
        expected = next(epochs)
        monkeypatch.setattr(optimizers, "is_fused_on", lambda device, after=after: after)
        (resumed,) = train(prepared(config)[0], data, config, start)
        assert resumed.checkpoint.optimizer["param_groups"][0]["fused"] == after
        assert resumed.train_loss == pytest.approx(expected.train_loss, rel=1e-5)


def test_the_next_batch_is_prepared_by_a_thread_while_this_one_is_used() -> None:
    prepared_ones, threads = [threading.Event() for _ in range(4)], set()

    def items() -> Iterator[int]:
        for number, event in enumerate(prepared_ones):
            event.set()
            threads.add(threading.current_thread())
            yield number + 1

    used = []
    for number in ahead(items()):
        used.append(number)
        assert number == 4 or prepared_ones[number].wait(5), "the next one is prepared meanwhile"
        time.sleep(0.01)
        assert not any(event.is_set() for event in prepared_ones[number + 1 :]), "but none beyond it"
    assert used == [1, 2, 3, 4]
    assert len(threads) == 1
    assert threading.main_thread() not in threads


def test_an_error_of_the_thread_is_raised_and_a_closed_iterator_ends_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file has gone")

    with pytest.raises(OSError, match="the file has gone"):
        list(ahead(items()))
    before = threading.active_count()
    some = ahead(iter(range(1, 100)))
    assert next(some) == 1
    assert threading.active_count() == before + 1
    some.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_batches_keep_their_order_values_and_memory_format(settings: dict[str, Any]) -> None:
    _, data = prepared(TrainConfig(**settings))
    split: Split = data.train
    given = [Batch(*split.gather(np.array([index])), torch.rand(1, 7), 1, True) for index in range(6)]
    found = list(on_device(iter(given), CPU))
    for ours, theirs in zip(found, given, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours[:3], theirs[:3], strict=True))
        assert ours.images.stride() == theirs.images.stride()
        assert ours[3:] == theirs[3:]
