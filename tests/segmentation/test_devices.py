import os

import pytest
import torch

from segmentation.devices import deterministic, memory_format, own_gpu, resolve_device, resolve_precision, sees_its_own
from segmentation.errors import InputError


def test_auto_takes_what_is_there() -> None:
    kind = resolve_device("auto").type
    assert kind == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu9", "meta:x"])
def test_a_device_that_is_not_here_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(InputError, match=rf"device='{name}' is not here. Present: cpu"):
        resolve_device(name)


def test_several_processes_share_the_cpu_and_take_a_gpu_each() -> None:
    assert resolve_device("cpu", 1, 2) == torch.device("cpu")
    cuda = torch.device("cuda")
    assert [own_gpu(cuda, place, 2, 4) for place in range(2)] == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(InputError, match=r"processes=3 on GPUs need one each, and there are 2 here: set processes=2"):
        own_gpu(cuda, 0, 3, 2)
    with pytest.raises(InputError, match=r"device=cuda:1 is one for 2 processes"):
        own_gpu(torch.device("cuda:1"), 0, 2, 2)


def test_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(InputError, match="precision=float16 is for GPUs"):
        resolve_precision("float16", cpu)


def test_what_has_no_deterministic_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is unset again afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    values, places = torch.zeros(3), torch.tensor([0, 0])
    told = r"deterministic=true is not possible here: put_ .* Set deterministic=false"
    with pytest.raises(InputError, match=told), deterministic(True):
        values.put_(places, torch.ones(2))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == before
    with deterministic(False):
        values.put_(places, torch.ones(2))
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
def test_a_launcher_may_show_each_process_its_own_gpu_alone(environment: dict[str, str], expected: bool) -> None:
    """Slurm's `--gpus-per-task=1`; processes that this program starts all see the same."""
    assert sees_its_own(environment) is expected


def test_the_only_gpu_that_a_process_sees_is_its_own_whatever_its_place() -> None:
    cuda = torch.device("cuda")
    assert [own_gpu(cuda, place, 4, 1, sees_one=True) for place in range(4)] == [torch.device("cuda:0")] * 4
    with pytest.raises(InputError, match="processes=4 on GPUs need one each, and there is 1 here"):
        own_gpu(cuda, 1, 4, 1)


def test_channels_last_is_for_the_cpu_and_cuda() -> None:
    formats = {name: memory_format(torch.device(name), True) for name in ("cpu", "cuda", "mps", "xpu")}
    assert [name for name, found in formats.items() if found is torch.channels_last] == ["cpu", "cuda"]
    assert memory_format(torch.device("cpu"), False) is torch.contiguous_format
