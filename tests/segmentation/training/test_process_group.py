"""What two real ranks compute together, compared with one process. Both ranks run the same functions of this file."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from segmentation.classes import Classes
from segmentation.data.training_images import TrainingImages
from segmentation.errors import DivergedError, InputError
from segmentation.scoring.scores import Scores
from segmentation.training import launch
from segmentation.training.batch_norm import average_statistics
from segmentation.training.launch import all_ranks
from segmentation.training.loop import _epochs, _train_epoch, merge_scores
from segmentation.training.process_group import ProcessGroup
from segmentation.training.step import StepResult, TrainingStep
from studies.config import TrainConfig
from tests.segmentation.training.models import TIMED, hold_batch_norm, prepared, two_rank_values

pytestmark = pytest.mark.slow

LABELS = Classes.named("a", "b", "c")
CPU = torch.device("cpu")


def run_functions(config: TrainConfig, group: ProcessGroup) -> None:
    """What rank 1 runs: the functions that rank 0 names."""
    while name := group.broadcast():
        globals()[name](config, group)


def full_disk(config: TrainConfig, group: ProcessGroup) -> None:
    raise InputError("the disk of this process is full")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrainConfig, ProcessGroup]]:
    """Rank 0 of two; at the end, rank 1 fails."""
    config = TrainConfig(**two_rank_values(tmp_path_factory.mktemp("data")), processes=2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEP_TIMEOUT", "EPOCH_TIMEOUT"):
            patch.setattr(launch, name, timedelta(minutes=1))  # a test that fails may take this long
        with (  # noqa: PT012 - three statements that belong together
            pytest.raises(InputError, match="rank 1 of 2 processes: the disk of this process is full"),
            all_ranks(config, run_functions) as group,
        ):
            yield config, group
            group.broadcast("full_disk")
            group.sum(1)  # rank 1 has ended


def of_both(group: ProcessGroup, own: Any) -> list[Any]:
    """The results of both ranks, on rank 0."""
    if group.rank == 0:
        return [own, group.receive(1)]
    group.send(own)
    return []


class Trained(NamedTuple):
    metrics: list[dict[str, float]]
    scores: Scores
    states: list[dict[str, torch.Tensor]]
    """Before the first epoch, and after each."""


def train_two_epochs(config: TrainConfig, group: ProcessGroup) -> Trained | None:
    """Batch norm is held, because it normalizes the shard of each rank by itself."""
    config = replace(
        config, freeze_backbone=1, flip=0.5, scale_min=0.8, scale_max=1.3, color_jitter=0.2, rotation=20.0, blur=0.5,
        crop=24, crop_at="class", sampling="class_balanced", score_crop="whole",
    )  # fmt: skip
    model, data = prepared(config)
    states, metrics, scores = [copy.deepcopy(model.state_dict())], [], None
    for epoch in _epochs(hold_batch_norm(model), data, config, None, group):
        states.append(copy.deepcopy(model.state_dict()))
        metrics.append({name: value for name, value in epoch.metrics().items() if name not in TIMED})
        scores = epoch.val
    return None if scores is None else Trained(metrics, scores, states)


@pytest.fixture(scope="module")
def one_and_two(pair: tuple[TrainConfig, ProcessGroup]) -> tuple[Trained, Trained]:
    config, group = pair
    group.broadcast("train_two_epochs")
    two, one = train_two_epochs(config, group), train_two_epochs(config, ProcessGroup())
    assert one is not None
    assert two is not None
    return one, two


def test_two_ranks_give_the_metrics_and_weights_of_one_process(one_and_two: tuple[Trained, Trained]) -> None:
    """float32 sums in another order differ by 1e-7, and training amplifies the difference."""
    one, two = one_and_two
    for ours, alone in zip(two.metrics, one.metrics, strict=True):
        for end in ("val/ece_low", "val/ece_high"):  # 1e-7 can move a resample of 5 images across the ECE
            assert ours[end] == pytest.approx(alone[end], abs=5e-3)
        alone = alone | {end: ours[end] for end in ("val/ece_low", "val/ece_high")}
        assert ours == pytest.approx(alone, rel=1e-4, abs=1e-5, nan_ok=True)
        assert ours["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-6)
    for name, tensor in one.states[-1].items():
        torch.testing.assert_close(two.states[-1][name], tensor, rtol=1e-3, atol=1e-4)
    assert max((two.states[-1][name] - tensor).abs().max() for name, tensor in one.states[0].items()) > 0.01


def test_every_image_is_scored_once_under_its_number(one_and_two: tuple[Trained, Trained]) -> None:
    one, two = one_and_two
    assert two.scores.tables[0].images.tolist() == [0, 1, 2, 3, 4]
    labelled = [next(each.scores.blocks())["confusion"].sum(2) for each in (one, two)]  # independent of the logits
    np.testing.assert_array_equal(labelled[0], labelled[1])
    assert labelled[0].sum() > 0


def test_a_frozen_backbone_does_not_change_and_learns_afterwards(one_and_two: tuple[Trained, Trained]) -> None:
    before, first, second = one_and_two[1].states
    changed = {name for name, tensor in before.items() if not torch.equal(first[name], tensor)}
    assert changed
    assert not [name for name in changed if "backbone" in name]
    assert [name for name in before if "backbone" in name and not torch.equal(first[name], second[name])]


def sums_and_statistics(config: TrainConfig, group: ProcessGroup) -> tuple[tuple[float, ...], torch.nn.BatchNorm2d]:
    layer = torch.nn.BatchNorm2d(3)
    layer.running_mean, layer.running_var = values_of(group.rank).mean(1), values_of(group.rank).var(1, unbiased=False)
    average_statistics(layer, group)
    return group.sum(*((2**53 - 1, 0.5) if group.rank == 0 else (1, math.nan))), layer


def values_of(rank: int) -> torch.Tensor:
    """Three channels: equal on both ranks, of other mean, and of other mean and variance."""
    values = torch.tensor([[0.1, 0.7, 1.3, 0.2], [1.0, 2.0, 3.0, 4.0], [5.0, 5.5, 6.0, 7.0]])
    return values if rank == 0 else values * torch.tensor([[1.0], [1.0], [3.0]]) + torch.tensor([[0.0], [9.0], [0.0]])


def test_sums_and_running_statistics_are_those_of_the_values_of_both_ranks(
    pair: tuple[TrainConfig, ProcessGroup],
) -> None:
    pair[1].broadcast("sums_and_statistics")
    (pixels, loss), layer = sums_and_statistics(*pair)
    assert pixels == 2**53
    assert math.isnan(loss)
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    together = torch.cat([values_of(0), values_of(1)], 1)
    torch.testing.assert_close(mean, together.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, together.var(1, unbiased=False), rtol=1e-6, atol=0)
    alone = values_of(0)[0]
    assert (mean[0], variance[0]) == (alone.mean(), alone.var(unbiased=False)), "equal values do not change"


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return 3 * torch.randn(7, 3, 6, 5, generator=random), torch.randint(0, 3, (7, 6, 5), generator=random)


def merged(config: TrainConfig, group: ProcessGroup) -> Scores:
    """Every second image of 7, and the first image twice, as a sampler that pads its shards gives them."""
    scores, own = Scores(LABELS), [0, 2, 4, 6] if group.rank == 0 else [1, 3, 5, 0]
    values, masks = logits()
    for part in (own[:2], own[2:]):
        scores.update(values[part], masks[part], part)
    merge_scores(scores, group)
    return scores


def test_merged_scores_are_exactly_those_of_one_process(pair: tuple[TrainConfig, ProcessGroup]) -> None:
    pair[1].broadcast("merged")
    scores, whole = merged(*pair), Scores(LABELS)
    whole.update(*logits())
    assert scores.metrics() == whole.metrics()
    for ours, alone in zip(scores.blocks(), whole.blocks(), strict=True):
        for name, array in alone.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


class PoisonedStep(TrainingStep):
    """After its first update, rank 1 has a weight that is not a number."""

    def __call__(self, *batch: Any) -> StepResult:
        result = super().__call__(*batch)
        if self.group.rank == 1:
            next(self.model.parameters()).data.fill_(math.nan)
        return result


def train_one_epoch(config: TrainConfig, group: ProcessGroup, kind: type[TrainingStep] = TrainingStep) -> torch.Tensor:
    """The parameters afterwards."""
    model, data = prepared(config)
    step = kind(hold_batch_norm(model), config, CPU, group)
    _train_epoch(step, TrainingImages(config, data.train), config, group, 1, None)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def micro_batches(config: TrainConfig, group: ProcessGroup) -> list[torch.Tensor]:
    return of_both(group, train_one_epoch(replace(config, micro_batch=1), group))


def test_micro_batches_on_two_ranks_add_up_to_the_whole_batch(pair: tuple[TrainConfig, ProcessGroup]) -> None:
    config, group = pair
    group.broadcast("micro_batches")
    ours, theirs = micro_batches(config, group)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, train_one_epoch(config, ProcessGroup()), rtol=1e-4, atol=1e-6)


def losses_of_images(config: TrainConfig, group: ProcessGroup) -> list[torch.Tensor]:
    return micro_batches(replace(config, loss="cross_entropy+dice"), group)


def test_a_loss_of_whole_images_adds_up_over_two_ranks(pair: tuple[TrainConfig, ProcessGroup]) -> None:
    config, group = pair
    group.broadcast("losses_of_images")
    ours, theirs = losses_of_images(config, group)
    assert torch.equal(ours, theirs)
    expected = train_one_epoch(replace(config, loss="cross_entropy+dice"), ProcessGroup())
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def divergence(config: TrainConfig, group: ProcessGroup) -> list[str]:
    """The errors of both ranks when only rank 1 has a loss that is not a number, in its second step."""
    with pytest.raises(DivergedError) as error:
        train_one_epoch(config, group, PoisonedStep)
    return of_both(group, str(error.value))


def test_all_ranks_diverge_at_the_same_step(pair: tuple[TrainConfig, ProcessGroup]) -> None:
    pair[1].broadcast("divergence")
    ours, theirs = divergence(*pair)
    assert "the loss is nan in epoch 1, step 2 of 2" in ours
    assert ours == theirs
