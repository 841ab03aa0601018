"""Runs on two processes, started by `processes=2` and by `torchrun`: results, early stop, resume and killed ranks."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
import torch.distributed as dist

from segmentation.errors import InputError
from segmentation.training import checkpoints, launch
from segmentation.training.loop import Epoch, train, train_rank
from studies.config import TrainConfig
from tests.conftest import PROJECT
from tests.segmentation.training.models import TIMED, prepared, two_rank_values

pytestmark = pytest.mark.slow

SECONDS_TO_END = 20.0
"""On a machine that is busy with other tests; on an idle one it takes a tenth of a second."""


def metrics_of(epoch: Epoch) -> dict[str, float]:
    return {name: value for name, value in epoch.metrics().items() if name not in TIMED}


class Trained(NamedTuple):
    config: TrainConfig
    metrics: list[dict[str, float]]
    first: Path
    """Checkpoint of the first epoch."""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return two_rank_values(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs of a longer run on two processes; the caller stops iterating, and no process is left."""
    folder = tmp_path_factory.mktemp("trained")
    config = TrainConfig(
        **values | {"epochs": 999, "processes": 2, "flip": 0.5, "scale_min": 0.8, "crop": 24, "crop_at": "random"}
    )
    threads, metrics = torch.get_num_threads(), []
    epochs = train(*prepared(config), config)
    for epoch in epochs:
        (other,) = multiprocessing.active_children()
        metrics.append(metrics_of(epoch))
        if epoch.number == 1:
            checkpoints.save(epoch.checkpoint, folder / "first.pt")
        else:
            break
    epochs.close()
    assert has_ended(other.pid or 0)
    assert not multiprocessing.active_children()
    assert not dist.is_initialized()
    assert torch.get_num_threads() == threads
    return Trained(config, metrics, folder / "first.pt")


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_resumes_as_if_it_had_not_stopped_and_a_killed_rank_ends_it_at_once_and_is_named(two: Trained) -> None:
    model, data = prepared(TrainConfig(**vars(two.config) | {"seed": 5}))  # whose weights the checkpoint replaces
    epochs = train(model, data, two.config, checkpoints.load(two.first))
    assert metrics_of(next(epochs)) == two.metrics[1]
    (other,) = multiprocessing.active_children()
    os.kill(other.pid or 0, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(InputError, match="rank 1 of 2 processes was killed by SIGKILL"):
        list(epochs)
    assert time.monotonic() - started < SECONDS_TO_END
    assert not multiprocessing.active_children()
    assert not dist.is_initialized()


RANK_0 = """
import json, multiprocessing, sys
from studies.config import TrainConfig
from segmentation.training.loop import train
from tests.segmentation.training.models import prepared

if __name__ == "__main__":
    config = TrainConfig(**json.loads(sys.argv[1]))
    for epoch in train(*prepared(config), config):
        if epoch.number == 1:
            print(*[process.pid for process in multiprocessing.active_children()], flush=True)
"""


def test_the_other_ranks_end_when_rank_0_is_killed(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rank_0.py").write_text(RANK_0)
    fields = json.dumps(values | {"epochs": 999, "processes": 2})
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, tmp_path / "rank_0.py", fields], stdout=subprocess.PIPE, text=True, env=environment
    ) as rank_0:
        assert rank_0.stdout is not None
        other = int(rank_0.stdout.readline())
        assert not has_ended(other)
        rank_0.kill()
    until = time.monotonic() + SECONDS_TO_END
    while not has_ended(other) and time.monotonic() < until:
        time.sleep(0.1)
    assert has_ended(other)


LAUNCHED = """
import json, sys
from segmentation.training import launch
from segmentation.training.loop import train, train_rank
from studies.config import TrainConfig
from tests.segmentation.training.models import prepared

config = TrainConfig(**json.loads(sys.argv[1]))
if launch.launched_rank() > 0:
    launch.run_launched_rank(config, train_rank)
else:
    epochs = train(*prepared(config), config)
    print(json.dumps(next(epochs).metrics()))
    epochs.close()
"""


def test_torchrun_gives_the_same_metrics_and_may_stop_early(two: Trained, tmp_path: Path) -> None:
    (tmp_path / "launched.py").write_text(LAUNCHED)
    fields = json.dumps(vars(two.config) | {"processes": 1})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, tmp_path / "launched.py", fields], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {name: value for name, value in metrics.items() if name not in TIMED} == two.metrics[0]


def test_more_processes_than_images_or_than_torchrun_has_started(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in launch.LAUNCHER_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launch.launched_rank() == 1
    with pytest.raises(InputError, match="processes=2, but torchrun has started 4 on this machine"):
        launch.run_launched_rank(TrainConfig(**values | {"processes": 2}), train_rank)
    with pytest.raises(InputError, match="batch_size=4 is smaller than the number of processes, 8"):
        launch.run_launched_rank(TrainConfig(**values), train_rank)


@pytest.mark.parametrize("missing", ["LOCAL_WORLD_SIZE", "RANK", "MASTER_ADDR"])
def test_a_launcher_must_set_every_variable(
    missing: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in {*launch.LAUNCHER_VARIABLES} - {missing}:
        monkeypatch.setenv(name, "1")
    with pytest.raises(InputError, match=rf"WORLD_SIZE=2 is set without {missing}:"):
        next(train(*prepared(TrainConfig(**values)), TrainConfig(**values)))
