"""Start, connection and end of the ranks that train one model together.

All ranks run the same training loop; rank 0 records and prints. `torchrun`, or Slurm with the same environment
variables, starts all of them. With `processes=N` the calling process is rank 0, so that it can hand each epoch to its
caller, and `torch.multiprocessing` starts ranks 1 to N - 1 on this machine. It also collects the error of a rank that
fails and ends the others. Gloo carries counts and objects, NCCL carries gradients on GPUs.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessContext, ProcessException, ProcessExitedException, start_processes

from segmentation.config import TrainingConfig
from segmentation.devices import resolve_device
from segmentation.errors import InputError, listed
from segmentation.system.interruption import set_all
from segmentation.system.runtime import prepare_process
from segmentation.training.process_group import ProcessGroup

STEP_TIMEOUT = timedelta(minutes=10)
"""Longest wait for the gradients or counts of another rank."""
EPOCH_TIMEOUT = timedelta(days=7)
"""Longest wait for rank 0 to prepare data or to record an epoch."""
FAILURE_SECONDS = 30.0
"""Longest wait for the rank whose end has made an operation between ranks fail."""
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher sets in addition to `WORLD_SIZE`."""
LOOPBACK = "127.0.0.1"

RankFunction = Callable[[TrainingConfig, ProcessGroup], None]
"""What every rank except 0 runs: a function of a module, so that it can be pickled."""


def is_launched() -> bool:
    """Whether `torchrun`, or another launcher that sets `WORLD_SIZE`, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_rank() -> int:
    """Rank that the launcher has given this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0


@contextmanager
def all_ranks(config: TrainingConfig, function: RankFunction) -> Iterator[ProcessGroup]:
    """Connect to all ranks as rank 0. With `processes=N`, start them first and end them when the `with` ends.

    Args:
        config: device and number of processes.
        function: run by the ranks that this process starts. They share its threads, unless `OMP_NUM_THREADS` is set.

    Raises:
        InputError: another rank has ended; the message names the rank and the reason.
    """
    group, others, threads = _group(config), ProcessContext([], []), torch.get_num_threads()
    if group.size == 1:
        yield group
        return
    resolve_device(config.device, group.local_rank, group.local_size)  # raise before any process is started
    try:
        if is_launched():
            store, _, _ = next(rendezvous("env://", timeout=EPOCH_TIMEOUT))
        else:
            store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=EPOCH_TIMEOUT)
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, threads // group.size))
            arguments = (function, config, group.size, store.port, torch.get_num_threads())
            others = start_processes(_started_rank, arguments, group.size - 1, join=False, daemon=True)
        _connect(group, store, config, others)
        yield group
    except (RuntimeError, ProcessException) as error:
        raise _failure(error, others, group.size) from error
    finally:
        for process in others.processes:
            process.kill()
            process.join()
        for file in others.error_files:
            Path(file).unlink(missing_ok=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def run_launched_rank(config: TrainingConfig, function: RankFunction) -> None:
    """Run `function` without output in a process that a launcher has started as another rank than 0.

    Raises:
        InputError: an error of this rank; `torchrun` prints it together with the rank.
    """
    from torch.distributed.elastic.multiprocessing.errors import record

    group = _group(config)
    set_all(signal.SIG_DFL)  # only rank 0 has a run to close
    store, _, _ = next(rendezvous("env://", timeout=EPOCH_TIMEOUT))
    record(_run_rank)(group, store, config, function)


def _started_rank(
    index: int, function: RankFunction, config: TrainingConfig, size: int, port: int, threads: int
) -> None:
    """Entry point of a process that rank 0 has started."""
    prepare_process()
    torch.set_num_threads(threads)
    store = TCPStore(LOOPBACK, port, is_master=False, timeout=EPOCH_TIMEOUT)
    _run_rank(ProcessGroup(index + 1, size, index + 1, size), store, config, function)


def _run_rank(group: ProcessGroup, store: Any, config: TrainingConfig, function: RankFunction) -> None:
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            _connect(group, store, config, ProcessContext([], []))
            function(config, group)
    except RuntimeError as error:
        if not _is_lost(error):  # otherwise the rank that has ended first reports the reason
            raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _group(config: TrainingConfig) -> ProcessGroup:
    """Rank and size, from the launcher's environment variables or from `processes`."""
    group = ProcessGroup(size=config.processes, local_size=config.processes)
    if is_launched():
        missing = [name for name in LAUNCHER_VARIABLES if not os.environ.get(name)]
        if missing:
            raise InputError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set without {listed(missing)}: start the command with "
                f"torchrun, which sets all of them; docs/scale.md shows how to set them under Slurm"
            )
        group = ProcessGroup(*(int(os.environ[each]) for each in ("RANK", "WORLD_SIZE", *LAUNCHER_VARIABLES[1:3])))
        if config.processes not in (1, group.local_size):
            raise InputError(
                f"processes={config.processes}, but torchrun has started {group.local_size} on this machine: leave "
                f"processes out, and set torchrun's --nproc-per-node"
            )
    if config.batch_size < group.size:
        raise InputError(f"batch_size={config.batch_size} is smaller than the number of processes, {group.size}")
    return group


def _connect(group: ProcessGroup, store: Any, config: TrainingConfig, others: ProcessContext) -> None:
    """Wait for all ranks, then initialize torch's process groups; raises when one of `others` has ended."""
    device = resolve_device(config.device, group.local_rank, group.local_size)
    store.set(f"rank/{group.rank}", socket.gethostname())
    while not store.check([f"rank/{rank}" for rank in range(group.size)]):
        others.join(0)
        time.sleep(0.05)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if group.local_size == group.size:  # no other machine is part of the group: stay off the network
        for _, interface in socket.if_nameindex():
            if interface in ("lo", "lo0"):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.size, timeout=STEP_TIMEOUT)
    group.objects = dist.new_group(backend="gloo", timeout=EPOCH_TIMEOUT)


def _is_lost(error: Exception) -> bool:
    """Whether the error means that another rank can no longer be reached."""
    message = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in message for word in ("gloo", "connection", "nccl"))


def _failure(error: RuntimeError | ProcessException, others: ProcessContext, size: int) -> Exception:
    """The error of the started rank that has ended; the given error if none has."""
    until = time.monotonic() + FAILURE_SECONDS
    try:
        while isinstance(error, RuntimeError) and time.monotonic() < until and not others.join(0.1):
            pass
    except ProcessException as found:
        error = found
    if isinstance(error, ProcessException):
        rank = f"rank {error.error_index + 1} of {size} processes"
        if isinstance(error, ProcessExitedException):
            how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with code {error.exit_code}"
            return InputError(f"{rank} {how}; if the machine ran out of memory, reduce processes or micro_batch")
        _, is_ours, message = error.msg.rpartition(f"{InputError.__module__}.{InputError.__qualname__}: ")
        return InputError(f"{rank}: {message.strip()}") if is_ours else RuntimeError(f"{rank}: {error.msg}")
    if is_launched() and _is_lost(error):
        return InputError("another rank has ended; torchrun prints which one, and the reason")
    return error
