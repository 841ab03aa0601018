"""Assignment of GPUs to the workers of a study."""

import os
import subprocess
import sys

import pytest
import torch

from segmentation.errors import InputError
from studies.config import TuneConfig
from studies.search.processes import _environment, assign_gpus, gpus_of_workers

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("workers", "processes", "count", "visible", "each"),
    [
        (4, 1, 4, None, ["0", "1", "2", "3"]),
        (2, 1, 4, None, ["0", "1"]),
        (2, 2, 4, None, ["0,1", "2,3"]),
        (2, 1, 2, "4,6", ["4", "6"]),
        (2, 2, 4, "7,5,3,1", ["7,5", "3,1"]),
        (2, 1, 2, "GPU-8f3e,MIG-17ab", ["GPU-8f3e", "MIG-17ab"]),
        (2, 1, 2, "3,2,-1,0", ["3", "2"]),
    ],
)
def test_each_worker_gets_gpus_of_its_own(
    workers: int, processes: int, count: int, visible: str | None, each: list[str]
) -> None:
    assert assign_gpus(CUDA, workers, processes, count, visible) == each


@pytest.mark.parametrize(
    ("device", "workers", "processes", "count", "message"),
    [
        ("cuda", 4, 1, 2, "workers=4 with processes=1 .*need 4 GPUs, but 2 .*at most workers=2, or device=cpu"),
        ("cuda", 2, 4, 4, "workers=2 with processes=4 .*need 8 GPUs, but 4 .*at most workers=1"),
        ("cuda:1", 2, 1, 4, "device=cuda:1 .*workers=2"),
        ("mps", 2, 1, 0, "device=mps .*workers=2"),
    ],
)
def test_too_few_gpus_are_refused(device: str, workers: int, processes: int, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_gpus(torch.device(device), workers, processes, count, None)


def test_workers_on_the_cpu_and_a_single_worker_need_no_assignment() -> None:
    assert assign_gpus(torch.device("cpu"), 4, 2, 0, None) is None
    assert gpus_of_workers(TuneConfig(workers=4, device="cpu")) is None
    assert gpus_of_workers(TuneConfig(workers=1, device="cuda:1")) is None


@pytest.mark.slow
def test_only_a_process_started_in_the_context_sees_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    name, show = "CUDA_VISIBLE_DEVICES", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    for before in (None, "1,0"):
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
        with _environment(name, "3"):
            assert subprocess.check_output([sys.executable, "-c", show], text=True) == "3\n"
        with _environment(name, None):
            assert os.environ.get(name) == before
        assert os.environ.get(name) == before
