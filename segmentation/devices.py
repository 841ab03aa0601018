"""Device and precision of a computation."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from segmentation.errors import InputError


def resolve_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU.

    Args:
        name: as PyTorch spells it, or `auto`.
        local_rank: index of this process among the processes of this machine that train one model together. Each
            process uses a different GPU; all of them share the CPU.
        local_size: number of these processes.

    Raises:
        InputError: this machine has no such device, or too few for its processes.
    """
    if local_size > 1:
        device = resolve_device(name)
        if device.type == "cpu":
            return device
        gpus = torch.cuda.device_count()
        return gpu_of_rank(device, local_rank, local_size, gpus, gpus == 1 and sees_one_gpu(os.environ))
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        mps = ["mps"] if torch.backends.mps.is_available() else []
        available = ["cpu", *mps, *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InputError(f"device={name!r} is not available on this machine; use {', '.join(available)}") from error
    return device


def gpu_of_rank(
    device: torch.device, local_rank: int, local_size: int, gpus: int, sees_one: bool = False
) -> torch.device:
    """The GPU of one of several processes on a machine.

    Args:
        device: the requested device, without an index.
        local_rank: index of the process on this machine.
        local_size: number of processes on this machine.
        gpus: number of GPUs that this process sees.
        sees_one: whether it sees only the GPU that is reserved for it, as with `srun --gpus-per-task=1`; see
            `sees_one_gpu`.

    Raises:
        InputError: there are too few GPUs, or one particular GPU was requested.
    """
    if device.type != "cuda" or device.index is not None:
        raise InputError(
            f"device={device} is a single device for {local_size} processes: set device=cuda, device=cpu, or "
            f"processes=1"
        )
    if sees_one:
        return torch.device("cuda", 0)
    if local_size > gpus:
        raise InputError(
            f"processes={local_size} need one GPU each, but this machine has {gpus}: set processes={gpus} or device=cpu"
        )
    return torch.device("cuda", local_rank)


def sees_one_gpu(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has made a single GPU visible to this process, one of several."""
    is_launched = int(environment.get("WORLD_SIZE", "1")) > 1
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("HIP_VISIBLE_DEVICES") or ""
    return is_launched and len([name for name in visible.split(",") if name.strip()]) == 1


def countable(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors on a device that has float64, in which sums are computed: unchanged on the CPU and CUDA, else copies.

    Apple's mps and most other accelerators have no float64.
    """
    return tuple(each if each.device.type in ("cpu", "cuda") else each.cpu() for each in tensors)


def memory_format(device: torch.device, channels_last: bool) -> torch.memory_format:
    """Memory format of a model's tensors: channels last if requested and the device is the CPU or CUDA.

    On mps, batch norm has wrong gradients with channels last: https://github.com/pytorch/pytorch/issues/175189
    """
    return torch.channels_last if channels_last and device.type in ("cpu", "cuda") else torch.contiguous_format


def to_device(device: torch.device, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors on a device. On CUDA the copy may still be running when this returns."""
    return tuple(each.to(device, non_blocking=device.type == "cuda") for each in tensors)


def copied_to_host(value: torch.Tensor) -> Callable[[], float]:
    """Start to copy a scalar to the host; the returned function waits for this copy alone and returns the number."""
    if value.device.type not in ("cpu", "cuda"):
        return value.item
    host, copied = value.detach(), None
    if value.device.type == "cuda":
        host = torch.empty_like(value, device="cpu", pin_memory=True)
        host.copy_(value.detach(), non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(value.device))

    def number() -> float:
        if copied is not None:
            copied.synchronize()
        return float(host.numpy())

    return number


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Number format of the forward pass; `auto` is bfloat16 on a GPU that computes in it, else float32.

    CPUs without matrix units for bfloat16 are slower in it than in float32, so `auto` is float32 on every CPU.
    """
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if name == "float16" and device.type == "cpu":
        raise InputError("precision=float16 needs a GPU; on a CPU set precision=float32 or precision=bfloat16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """A context in which models compute in the given precision."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


@contextmanager
def fastest_convolutions(enabled: bool) -> Iterator[None]:
    """Inside the `with`, cuDNN times its algorithms for each size of input and keeps the fastest, if enabled."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Inside the `with`, PyTorch uses only deterministic kernels, if enabled.

    Raises:
        InputError: an operation has no deterministic kernel on this device.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn_before = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise InputError(
            f"deterministic=true is not possible: {str(error).splitlines()[0].partition(' You can turn off')[0]} "
            f"Set deterministic=false, or use another model or device"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = cudnn_before
