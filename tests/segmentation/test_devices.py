import os

import pytest
import torch

from segmentation.devices import (
    deterministic,
    gpu_of_rank,
    memory_format,
    resolve_device,
    resolve_precision,
    sees_one_gpu,
)
from segmentation.errors import InputError


def test_auto_is_a_gpu_if_there_is_one() -> None:
    kind = resolve_device("auto").type
    assert kind == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu9", "meta:x"])
def test_a_missing_device_is_refused_with_the_available_ones(name: str) -> None:
    with pytest.raises(InputError, match=rf"device='{name}' is not available on this machine; use cpu"):
        resolve_device(name)


def test_several_processes_share_the_cpu_and_use_a_gpu_each() -> None:
    assert resolve_device("cpu", 1, 2) == torch.device("cpu")
    cuda = torch.device("cuda")
    assert [gpu_of_rank(cuda, rank, 2, 4) for rank in range(2)] == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(InputError, match="processes=3 need one GPU each, but this machine has 2: set processes=2"):
        gpu_of_rank(cuda, 0, 3, 2)
    with pytest.raises(InputError, match="device=cuda:1 .* 2 processes"):
        gpu_of_rank(torch.device("cuda:1"), 0, 2, 2)


def test_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(InputError, match="precision=float16 needs a GPU"):
        resolve_precision("float16", cpu)


def test_an_operation_without_a_deterministic_kernel_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is unset again afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    values, indices = torch.zeros(3), torch.tensor([0, 0])
    message = r"deterministic=true is not possible: put_ .* Set deterministic=false"
    with pytest.raises(InputError, match=message), deterministic(True):
        values.put_(indices, torch.ones(2))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == before
    with deterministic(False):
        values.put_(indices, torch.ones(2))
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "3"}, True),
        ({"WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "MIG-8b1f2c3d"}, True),
        ({"WORLD_SIZE": "4", "HIP_VISIBLE_DEVICES": "0"}, True),
        ({"WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "0,1"}, False),
        ({"WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": ""}, False),
        ({"WORLD_SIZE": "4"}, False),
        ({"WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": "3"}, False),
        ({"CUDA_VISIBLE_DEVICES": "3"}, False),
    ],
)
def test_a_launcher_may_make_one_gpu_visible_to_each_process(environment: dict[str, str], expected: bool) -> None:
    """As with Slurm's `--gpus-per-task=1`; processes that this program starts see all GPUs."""
    assert sees_one_gpu(environment) is expected


def test_a_process_uses_the_only_gpu_that_it_sees_whatever_its_rank() -> None:
    cuda = torch.device("cuda")
    assert [gpu_of_rank(cuda, rank, 4, 1, sees_one=True) for rank in range(4)] == [torch.device("cuda:0")] * 4
    with pytest.raises(InputError, match="processes=4 need one GPU each, but this machine has 1"):
        gpu_of_rank(cuda, 1, 4, 1)


def test_channels_last_is_used_on_the_cpu_and_cuda() -> None:
    formats = {name: memory_format(torch.device(name), True) for name in ("cpu", "cuda", "mps", "xpu")}
    assert [name for name, found in formats.items() if found is torch.channels_last] == ["cpu", "cuda"]
    assert memory_format(torch.device("cpu"), False) is torch.contiguous_format
