"""Where and in which precision to compute."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from segmentation.errors import InputError


def resolve_device(name: str, place: int = 0, processes: int = 1) -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU.

    Of several `processes` that compute together on this machine, that at `place`, counted from 0, takes a GPU of its
    own; the CPU they share.

    Raises:
        InputError: no such device here, or not one for each process.
    """
    if processes > 1:
        device = resolve_device(name)
        if device.type == "cpu":
            return device
        gpus = torch.cuda.device_count()
        return own_gpu(device, place, processes, gpus, gpus == 1 and sees_its_own(os.environ))
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        mps = ["mps"] if torch.backends.mps.is_available() else []
        present = ["cpu", *mps, *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InputError(f"device={name!r} is not here. Present: {', '.join(present)}.") from error
    return device


def own_gpu(device: torch.device, place: int, processes: int, gpus: int, sees_one: bool = False) -> torch.device:
    """The GPU of the process at `place` of several on a machine.

    Args:
        device: what was asked for.
        place: of the process among those on this machine, from 0.
        processes: how many there are.
        gpus: how many GPUs this process sees.
        sees_one: whether it sees only the one that is its own, as `srun --gpus-per-task=1` gives it; see
            `sees_its_own`.

    Raises:
        InputError: there are not enough, or one certain GPU was asked for.
    """
    if device.type != "cuda" or device.index is not None:
        raise InputError(
            f"device={device} is one for {processes} processes: set device=cuda, device=cpu, or processes=1"
        )
    if sees_one:
        return torch.device("cuda", 0)
    if processes > gpus:
        raise InputError(
            f"processes={processes} on GPUs need one each, and there {'is' if gpus == 1 else 'are'} {gpus} here: set "
            f"processes={gpus} or device=cpu"
        )
    return torch.device("cuda", place)


def sees_its_own(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has given this process, one of several, a single GPU to see."""
    launched = int(environment.get("WORLD_SIZE", "1")) > 1
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("HIP_VISIBLE_DEVICES") or ""
    return launched and len([name for name in visible.split(",") if name.strip()]) == 1


def countable(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors where float64 exists, in which everything is summed: as they are on the CPU and CUDA, else copies.

    Apple's mps has no float64, nor have most other accelerators.
    """
    return tuple(each if each.device.type in ("cpu", "cuda") else each.cpu() for each in tensors)


def memory_format(device: torch.device, channels_last: bool) -> torch.memory_format:
    """How a network's tensors lie in memory: channels last, if asked for, on the CPU and CUDA alone.

    On mps batch norm has wrong gradients for it: https://github.com/pytorch/pytorch/issues/175189
    """
    return torch.channels_last if channels_last and device.type in ("cpu", "cuda") else torch.contiguous_format


def copied(device: torch.device, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors on a device; elsewhere than on CUDA they are there when this returns."""
    return tuple(each.to(device, non_blocking=device.type == "cuda") for each in tensors)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass; `auto` is bfloat16 on a GPU that computes in it, else float32.

    On CPUs without matrix units for bfloat16 it was slower than float32, so a CPU never gets it unasked.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name == "float16" and device.type == "cpu":
        raise InputError("precision=float16 is for GPUs; on a CPU take float32 or bfloat16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """A context in which networks compute in the given precision."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the `with`, only kernels are used that give the same result each time, if that is `wanted`.

    Raises:
        InputError: an operation has no such kernel on this device.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise InputError(
            f"deterministic=true is not possible here: {str(error).splitlines()[0].partition(' You can turn off')[0]} "
            f"Set deterministic=false, or take another model or device"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = kernels
