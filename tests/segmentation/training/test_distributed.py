"""Trainings by real processes that talk through gloo, beside the same by one process."""

import copy
import itertools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn

from segmentation.classes import Classes
from segmentation.data import load_split
from segmentation.errors import DivergedError, InputError
from segmentation.models.segmenter import Segmenter, build
from segmentation.scoring.scores import Scores
from segmentation.training import checkpoints, distributed
from segmentation.training.distributed import Team
from segmentation.training.loop import Data, _Training, follow, merge_all, train
from segmentation.training.sync_batch_norm import synchronised
from studies.config import TrainConfig
from tests.conftest import PROJECT, write_own_data

LABELS = Classes.named("a", "b", "c")
TIMED = ("epoch_seconds", "images_per_second")
SECONDS_TO_END = 20.0
"""For a machine that is busy with other tests; alone it takes a tenth of one."""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Batches of 4 and 5 of 9 images, so that two processes have shares of different size; 5 images to score."""
    place = tmp_path_factory.mktemp("distributed")
    return {
        "dataset": "folder", "data_dir": str(write_own_data(place, train=9, val=5)), "resize": 32, "crop": 32,
        "device": "cpu", "model": "lraspp_mobilenet_v3_large", "epochs": 2, "batch_size": 4, "learning_rate": 0.02,
        "cache_dir": str(place / "cache"), "sync_batch_norm": True,
    }  # fmt: skip


def prepared(config: TrainConfig) -> tuple[Segmenter, Data]:
    data = Data(load_split(config, "train"), load_split(config, "val"))
    torch.manual_seed(config.seed)
    return build(config, len(data.train.labels)), data


class Trained(NamedTuple):
    config: TrainConfig
    figures: list[dict[str, float]]
    scores: Scores
    states: list[dict[str, torch.Tensor]]
    """Before the first epoch, and after each."""
    first: Path
    """Checkpoint of the first epoch."""


def trained(config: TrainConfig, place: Path) -> Trained:
    network, data = prepared(config)
    states, figures = [copy.deepcopy(network.state_dict())], []
    for epoch in train(network, data, config):
        states.append(copy.deepcopy(network.state_dict()))
        figures.append({name: value for name, value in epoch.metrics().items() if name not in TIMED})
        if epoch.number == 1:
            checkpoints.save(epoch.checkpoint, place / "first.pt")
    return Trained(config, figures, epoch.val, states, place / "first.pt")


@pytest.fixture(scope="module")
def of_one_and_of_two(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Trained]:
    more = {"freeze_backbone": 1, "flip": 0.5, "scale_min": 0.8, "scale_max": 1.3, "color_jitter": 0.2}
    one, two = (
        trained(TrainConfig(**values | more, processes=processes), tmp_path_factory.mktemp("trained"))
        for processes in (1, 2)
    )
    return one, two


def test_two_processes_give_the_figures_of_one(of_one_and_of_two: tuple[Trained, Trained]) -> None:
    """float32 sums in another order differ by 1e-7, and training carries that on."""
    one, two = of_one_and_of_two
    for ours, alone in zip(two.figures, one.figures, strict=True):
        for end in ("val/ece_low", "val/ece_high"):  # 1e-7 can put a resample of 5 images on the other side of the ECE
            assert ours[end] == pytest.approx(alone[end], abs=5e-3)
        alone = alone | {end: ours[end] for end in ("val/ece_low", "val/ece_high")}
        assert ours == pytest.approx(alone, rel=1e-4, abs=1e-5, nan_ok=True)
        assert ours["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-6)
    for name, tensor in one.states[-1].items():
        torch.testing.assert_close(two.states[-1][name], tensor, rtol=1e-3, atol=1e-4)
    assert max((two.states[-1][name] - tensor).abs().max() for name, tensor in one.states[0].items()) > 0.01


def test_every_image_is_scored_once_and_by_its_number(of_one_and_of_two: tuple[Trained, Trained]) -> None:
    one, two = of_one_and_of_two
    assert two.scores.tables[0].images.tolist() == [0, 1, 2, 3, 4]
    labelled = [next(each.scores.blocks())["confusion"].sum(2) for each in (one, two)]  # does not depend on logits
    assert (labelled[0] == labelled[1]).all()
    assert labelled[0].sum() > 0


def test_a_frozen_backbone_does_not_change_and_learns_afterwards(of_one_and_of_two: tuple[Trained, Trained]) -> None:
    before, first, second = of_one_and_of_two[1].states
    changed = {name for name, tensor in before.items() if not torch.equal(first[name], tensor)}
    assert changed
    assert not [name for name in changed if "backbone" in name]
    assert [name for name in before if "backbone" in name and not torch.equal(first[name], second[name])]


def test_who_stops_iterating_leaves_nobody_behind_and_a_training_goes_on_as_if_it_had_not_stopped(
    of_one_and_of_two: tuple[Trained, Trained],
) -> None:
    two, threads = of_one_and_of_two[1], torch.get_num_threads()
    assert not multiprocessing.active_children()
    network, data = prepared(TrainConfig(**vars(two.config) | {"seed": 5}))
    config = TrainConfig(**vars(two.config) | {"epochs": 9})
    for epoch in train(network, data, config, checkpoints.load(two.first)):
        (other,) = [process.pid for process in multiprocessing.active_children()]
        assert {name: value for name, value in epoch.metrics().items() if name not in TIMED} == two.figures[1]
        break
    assert ended(other or 0)
    assert not multiprocessing.active_children()
    assert not dist.is_initialized()
    assert torch.get_num_threads() == threads


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_is_killed_ends_the_training_at_once_and_is_named(values: dict[str, Any]) -> None:
    config = TrainConfig(**values | {"epochs": 999, "processes": 2})
    epochs = train(*prepared(config), config)
    next(epochs)
    (other,) = multiprocessing.active_children()
    os.kill(other.pid or 0, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(InputError, match="rank 1 of 2 processes was killed by SIGKILL"):
        list(itertools.islice(epochs, 999))
    assert time.monotonic() - started < SECONDS_TO_END
    assert not dist.is_initialized()


LEAD = """
import json, multiprocessing, sys
import torch
from studies.config import TrainConfig
from segmentation.data import load_split
from segmentation.models.segmenter import build
from segmentation.training.loop import Data, train

if __name__ == "__main__":
    config = TrainConfig(**json.loads(sys.argv[1]))
    data = Data(load_split(config, "train"), load_split(config, "val"))
    for epoch in train(build(config, len(data.train.labels)), data, config):
        if epoch.number == 1:
            print(*[process.pid for process in multiprocessing.active_children()], flush=True)
"""


def test_processes_end_when_the_first_one_is_killed(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "lead.py").write_text(LEAD)
    told = json.dumps(values | {"epochs": 999, "processes": 2})
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "lead.py", told], stdout=subprocess.PIPE, text=True, env=environment
    ) as first:
        assert first.stdout is not None
        other = int(first.stdout.readline())
        assert not ended(other)
        first.kill()
    until = time.monotonic() + SECONDS_TO_END
    while not ended(other) and time.monotonic() < until:
        time.sleep(0.1)
    assert ended(other)


FOLLOW = """
import json, sys
from segmentation.training import distributed
from studies.config import TrainConfig
from segmentation.data import load_split
from segmentation.models.segmenter import build
from segmentation.training.loop import Data, follow, train
import torch

config = TrainConfig(**json.loads(sys.argv[1]))
if distributed.rank() > 0:
    distributed.follow_torchrun(config, follow)
else:
    data = Data(load_split(config, "train"), load_split(config, "val"))
    torch.manual_seed(config.seed)
    epochs = train(build(config, len(data.train.labels)), data, config)
    print(json.dumps(next(epochs).metrics()))
    epochs.close()
"""


def test_torchrun_gives_the_same_as_processes_and_may_stop_early(
    of_one_and_of_two: tuple[Trained, Trained], tmp_path: Path
) -> None:
    (tmp_path / "follow.py").write_text(FOLLOW)
    two = of_one_and_of_two[1]
    told = json.dumps(vars(two.config) | {"processes": 1})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*torchrun, "follow.py", told], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {name: value for name, value in figures.items() if name not in TIMED} == two.figures[0]


def test_more_processes_than_images_or_than_torchrun_has_started(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="batch_size=4 has no image for each of processes=5"):
        TrainConfig(**values | {"processes": 5})
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert distributed.rank() == 1
    with pytest.raises(InputError, match="processes=2, but torchrun has started 4 on this machine"):
        distributed.follow_torchrun(TrainConfig(**values | {"processes": 2}), follow)
    with pytest.raises(InputError, match="batch_size=4 has no image for each of 8 processes"):
        distributed.follow_torchrun(TrainConfig(**values), follow)


@pytest.mark.parametrize("missing", ["LOCAL_WORLD_SIZE", "RANK", "MASTER_ADDR"])
def test_a_launcher_that_does_not_say_enough_is_told_what_lacks(
    missing: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"} | dict.fromkeys(distributed.LAUNCHED, "1")
    for name in said.keys() - {missing}:
        monkeypatch.setenv(name, said[name])
    with pytest.raises(InputError, match=rf"WORLD_SIZE=2 .* {missing} is not set: torchrun sets all"):
        next(train(*prepared(TrainConfig(**values)), TrainConfig(**values)))


def beside(config: TrainConfig, team: Team) -> None:
    """What the second process does in the tests of `pair`: what the first one asks for."""
    team.meet(torch.device("cpu"))
    while asked := team.told():
        globals()[asked](config, team)


def full_disk(config: TrainConfig, team: Team) -> None:
    raise InputError("the disk of this process is full")


@pytest.fixture(scope="module")
def pair(values: dict[str, Any]) -> Iterator[tuple[TrainConfig, Team]]:
    """The first of two processes; the other one does `beside`, and in the end fails."""
    config = TrainConfig(**values | {"processes": 2, "micro_batch": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "IN_STEP", timedelta(minutes=1))  # so long a test that fails may take
        with (  # noqa: PT012 - three statements that belong together
            pytest.raises(InputError, match="rank 1 of 2 processes: the disk of this process is full"),
            distributed.together(config, beside) as team,
        ):
            yield config, team
            team.told("full_disk")
            team.total(1)  # which the other one does not live to see


SHAPES = ((3, 5, 4, 6), (2, 5, 4, 4))
"""Batches of the two processes."""


def normalised(config: TrainConfig, team: Team) -> list[dict[str, torch.Tensor]]:
    """One step of batch norm over both processes' values: what it gives each."""
    layer, values = batch_norm(), inputs(team.rank)
    with synchronised(nn.Sequential(layer)):
        outputs = layer(values)
        (outputs * weights(team.rank)).sum().backward()
    assert type(layer) is nn.BatchNorm2d
    found = {"outputs": outputs.detach(), "by_values": values.grad, **layer.state_dict()}
    found |= {"by_weight": layer.weight.grad, "by_bias": layer.bias.grad}
    return of_both(team, found)


def of_both(team: Team, own: Any) -> list[Any]:
    """What both processes have found."""
    if team.rank == 0:
        return [own, team.received(1)]
    team.send(own)
    return []


def batch_norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(5, momentum=0.3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    return layer


def inputs(rank: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(rank)
    return (7 + torch.randn(SHAPES[rank], generator=random, dtype=torch.float64)).requires_grad_()


def weights(rank: int) -> torch.Tensor:
    return torch.randn(SHAPES[rank], generator=torch.Generator().manual_seed(10 + rank), dtype=torch.float64)


def in_rows(values: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` as `(B * H * W, C, 1, 1)`."""
    return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1], 1, 1)


def test_batch_norm_is_that_of_the_values_of_all_processes(pair: tuple[TrainConfig, Team]) -> None:
    config, team = pair
    team.told("normalised")
    ours, theirs = normalised(config, team)
    layer, parts = batch_norm(), [inputs(0), inputs(1)]
    outputs = layer(torch.cat([in_rows(part) for part in parts]))
    (outputs * torch.cat([in_rows(weights(0)), in_rows(weights(1))])).sum().backward()
    found = torch.cat([in_rows(each["outputs"]) for each in (ours, theirs)])
    torch.testing.assert_close(found, outputs.detach())
    for each, part in zip((ours, theirs), parts, strict=True):
        torch.testing.assert_close(each["by_values"], part.grad)
        for name, tensor in layer.state_dict().items():
            torch.testing.assert_close(each[name], tensor)
    torch.testing.assert_close(ours["by_weight"] + theirs["by_weight"], layer.weight.grad)
    torch.testing.assert_close(ours["by_bias"] + theirs["by_bias"], layer.bias.grad)


def sums_and_means(config: TrainConfig, team: Team) -> tuple[tuple[float, ...], list[torch.Tensor]]:
    means, variances = [values_of(team.rank).mean(1)], [values_of(team.rank).var(1, unbiased=False)]
    team.pool(means, variances)
    return team.total(*((2**53 - 1, 0.5) if team.rank == 0 else (1, math.nan))), [*means, *variances]


def values_of(rank: int) -> torch.Tensor:
    """Three channels: equal in both processes, of other mean, and of other mean and variance."""
    values = torch.tensor([[0.1, 0.7, 1.3, 0.2], [1.0, 2.0, 3.0, 4.0], [5.0, 5.5, 6.0, 7.0]])
    return values if rank == 0 else values * torch.tensor([[1.0], [1.0], [3.0]]) + torch.tensor([[0.0], [9.0], [0.0]])


def test_sums_and_means_over_processes(pair: tuple[TrainConfig, Team]) -> None:
    pair[1].told("sums_and_means")
    (pixels, loss), (mean, variance) = sums_and_means(*pair)
    assert pixels == 2**53
    assert math.isnan(loss)
    together = torch.cat([values_of(0), values_of(1)], 1)  # as many of each process
    torch.testing.assert_close(mean, together.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, together.var(1, unbiased=False), rtol=1e-6, atol=0)
    alone = values_of(0)[0]
    assert (mean[0], variance[0]) == (alone.mean(), alone.var(unbiased=False)), "what is equal stays as it is"


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return 3 * torch.randn(7, 3, 6, 5, generator=random), torch.randint(0, 3, (7, 6, 5), generator=random)


def merged(config: TrainConfig, team: Team) -> Scores:
    """Every second image of 7, and as a sampler does that fills up the shares, the first one once more."""
    scores, own = Scores(LABELS), [0, 2, 4, 6] if team.rank == 0 else [1, 3, 5, 0]
    values, masks = logits()
    for part in (own[:2], own[2:]):
        scores.update(values[part], masks[part], part)
    merge_all(scores, team)
    return scores


def test_merged_scores_are_exactly_those_of_one_process(pair: tuple[TrainConfig, Team]) -> None:
    pair[1].told("merged")
    scores, whole = merged(*pair), Scores(LABELS)
    whole.update(*logits())
    assert scores.metrics() == whole.metrics()
    assert (scores.confusion.counts == whole.confusion.counts).all()
    assert (scores.reliability.bins().count == whole.reliability.bins().count).all()
    for ours, alone in zip(scores.blocks(), whole.blocks(), strict=True):
        for name, array in alone.items():
            assert (ours[name] == array).all(), name


def still_training(config: TrainConfig, team: Team) -> _Training:
    """A training in which batch norm holds still, so that small forward passes are as large ones."""
    network, data = prepared(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
            module.train = lambda mode=True, module=module: module
            module.training = False
    return _Training(network, data, config, None, team)


def parameters_after_a_pass(config: TrainConfig, team: Team) -> list[torch.Tensor]:
    training = still_training(config, team)
    training.one_pass(1)
    own = torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])
    return [own] if team.size == 1 else of_both(team, own)


def test_small_forward_passes_in_two_processes_add_up_to_the_whole_batch(pair: tuple[TrainConfig, Team]) -> None:
    config, team = pair
    team.told("parameters_after_a_pass")
    ours, theirs = parameters_after_a_pass(config, team)
    assert torch.equal(ours, theirs)
    (alone,) = parameters_after_a_pass(replace(config, processes=1, micro_batch=None), Team())
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-6)


def divergence(config: TrainConfig, team: Team) -> list[str]:
    """What both processes tell of an epoch in whose second step the second one alone sees a loss that is no number."""
    training = still_training(config, team)
    step = training._one_step

    def poisoned(*arguments: Any) -> tuple[float, int, int]:
        result = step(*arguments)
        if team.rank == 1:
            next(training.network.parameters()).data.fill_(math.nan)
        return result

    training._one_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError) as error:
        training.one_pass(1)
    return of_both(team, str(error.value))


def test_all_processes_diverge_at_the_same_step(pair: tuple[TrainConfig, Team]) -> None:
    pair[1].told("divergence")
    ours, theirs = divergence(*pair)
    assert "the loss became nan in epoch 1, step 2 of 2" in ours
    assert ours == theirs
