"""The processes that train one network together: how they meet, what they tell each other, and how they part.

They are started by `torchrun`, on one machine or several, or, with `processes=N`, by the first of them on its own
machine. The first, of rank 0, is the one that records and prints; the others follow it. Small numbers and objects go
through gloo, gradients on GPUs through nccl, and what may take long, such as waiting for the next epoch, through a
store, which has no hurry.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, fields
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from segmentation.config import TrainingConfig
from segmentation.devices import resolve_device
from segmentation.errors import InputError, listed
from segmentation.system.interruption import SIGNALS, answer_all
from segmentation.system.runtime import prepare_process

IN_STEP = timedelta(minutes=10)
"""So long a process waits for another inside an epoch."""
BETWEEN = timedelta(days=30)
"""So long it waits for the next epoch: whoever records the last one may take their time."""
TELLING_SECONDS = 5.0
"""So long the first process waits to see which other one has ended, and why."""
LOOPBACK = "127.0.0.1"
NAMES = tuple(each.name for each in fields(TrainingConfig))
OF_THE_MACHINE = ("data_dir", "download", "cache_dir", "device")
"""Fields that each process has of its own; all others are as the first one has them."""

Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


@dataclass
class Team:
    """A process's place among those that train together. Alone, it has all there is, and tells nobody."""

    rank: int = 0
    """0 for the first process."""
    size: int = 1
    local_rank: int = 0
    """The same on this machine."""
    local_size: int = 1
    store: Any = None
    """torch's store that all processes reach, if there are several."""
    epochs_called: int = field(default=0, init=False)
    in_epoch: bool = field(default=False, init=False)

    def share(self, whole: Rows) -> Rows:
        """This process's part of a batch's rows, or of a split's images: every `size`-th."""
        return whole if self.size == 1 else whole[self.rank :: self.size]

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum over all processes of each value, in float64."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def pool(self, means: Sequence[torch.Tensor], variances: Sequence[torch.Tensor]) -> None:
        """Set means and variances of values of each process to those of the values of all; each process counts once.

        By the law of total variance, the mean of the variances lacks the variance between the means.
        """
        if self.size == 1 or not means:
            return
        mean, variance = (
            torch.cat([tensor.detach().flatten().cpu().double() for tensor in tensors])
            for tensors in (means, variances)
        )
        whole = mean.clone()
        dist.all_reduce(whole)
        whole /= self.size
        variance += (mean - whole) ** 2
        dist.all_reduce(variance)
        variance /= self.size
        with torch.no_grad():
            for tensors, found in ((means, whole), (variances, variance)):
                for tensor, part in zip(tensors, found.split([tensor.numel() for tensor in tensors]), strict=True):
                    tensor.copy_(part.reshape(tensor.shape))

    def told(self, value: Any = None) -> Any:
        """What the first process tells all others; only its own `value` counts."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def send(self, value: Any) -> None:
        """Give the first process something."""
        dist.send_object_list([value], dst=0)

    def received(self, rank: int) -> Any:
        """What another process has sent to the first one."""
        values = [None]
        dist.recv_object_list(values, src=rank)
        return values[0]

    @contextmanager
    def epoch(self, number: int) -> Iterator[None]:
        """The first process's call to the others to do an epoch with it, inside the `with`."""
        self._call(number)
        yield
        self.in_epoch = False

    def next_epoch(self) -> int | None:
        """Wait for that call, in another process; None when there is no more to do."""
        self.epochs_called += 1
        return int(self.store.get(f"training/call/{self.epochs_called}")) or None

    def dismiss(self) -> None:
        """Let the others end, unless they are in the middle of an epoch and cannot hear it."""
        if self.store is not None and not self.in_epoch:
            self._call(0)

    def meet(self, device: torch.device, alive: Callable[[], None] = lambda: None) -> None:
        """Wait until all processes have got this far, then form the group in which they compute.

        Args:
            device: what this process computes on.
            alive: called by the first process while it waits; raises when there is nobody to wait for.
        """
        if self.rank == 0:
            while not self.store.check([f"training/ready/{rank}" for rank in range(1, self.size)]):
                alive()
                time.sleep(0.05)
            self.store.set("training/met", "all")
        else:
            self.store.set(f"training/ready/{self.rank}", socket.gethostname())
            self.store.get("training/met")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with _loopback_only() if self.local_size == self.size else nullcontext():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=self.store.clone(),  # its own connection: the other one is held while waiting for an epoch
                rank=self.rank,
                world_size=self.size,
                timeout=IN_STEP,
            )

    def _call(self, number: int) -> None:
        if self.size > 1:
            self.epochs_called += 1
            self.store.set(f"training/call/{self.epochs_called}", str(number))
            self.in_epoch = bool(number)


Follower = Callable[[TrainingConfig, Team], None]
"""What every process but the first does: `Team.meet`, then an epoch at a time until `Team.next_epoch` is None."""


def by_torchrun() -> bool:
    """Whether `torchrun`, or another launcher that speaks its language, has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The rank of this process as `torchrun` has started it; 0 without it."""
    return int(os.environ.get("RANK", "0")) if by_torchrun() else 0


@contextmanager
def together(config: TrainingConfig, follower: Follower) -> Iterator[Team]:
    """The team of the first process, which it leads inside the `with`; afterwards nobody is left over.

    Without `torchrun` it starts the others, each with its part of this process's threads, unless `OMP_NUM_THREADS` says
    how many are for each. `processes=1` makes no group at all.

    Args:
        config: how many processes, on which device.
        follower: a function of a module, which the others are to do.

    Raises:
        InputError: another process has ended, and why.
    """
    team = _place(config)
    if team.size == 1:
        yield team
        return
    device = resolve_device(config.device, team.local_rank, team.local_size)
    threads = torch.get_num_threads()
    others: dict[int, SpawnProcess] = {}
    try:
        if by_torchrun():
            team.store = _torchrun_store()
        else:
            team.store = _own_store()
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, threads // team.size))
            others.update(_start(config, follower, team))
        team.store.set("training/begun", json.dumps({name: getattr(config, name) for name in NAMES}))
        team.meet(device, lambda: _check_alive(team, others))
        yield team
    except RuntimeError as error:
        ended = _who_ended(team, others, error)
        if ended is None:
            raise
        raise InputError(ended) from error
    finally:
        with suppress(RuntimeError):
            team.dismiss()
        for process in others.values():  # which have nothing to finish; by themselves they take seconds
            process.kill()
            process.join()
            process.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def follow_torchrun(config: TrainingConfig, follower: Follower) -> None:
    """What a process that `torchrun` has started does if it is not the first: `follower`, silently.

    Raises:
        InputError: what went wrong in this process; what went wrong in another is told there.
    """
    team = _place(config)
    answer_all(signal.SIG_DFL)  # until the first process is there, nothing is worth waiting for
    team.store = _torchrun_store()
    team.store.wait(["training/begun"])
    answer_all(signal.SIG_IGN)  # the first process, which is told to stop as well, tells when
    _follow(config, follower, team)


def _place(config: TrainingConfig) -> Team:
    """How many train together, and which of them this process is."""
    if by_torchrun():
        _need(*LAUNCHED)
        team = Team(
            rank(), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        )
        if config.processes not in (1, team.local_size):
            raise InputError(
                f"processes={config.processes}, but torchrun has started {team.local_size} on this machine: leave "
                f"processes out, and set torchrun's --nproc-per-node"
            )
    else:
        team = Team(0, config.processes, 0, config.processes)
    if config.batch_size < team.size:
        raise InputError(
            f"batch_size={config.batch_size} has no image for each of {team.size} processes: make it larger"
        )
    return team


LAUNCHED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What a launcher sets beside `WORLD_SIZE`, and where to meet: `MASTER_ADDR` and `MASTER_PORT`."""


def _need(*names: str) -> None:
    """Raise an `InputError` for environment variables that a launcher should have set."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that a launcher has started several processes, but "
            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not set: torchrun sets all; for Slurm see "
            f"docs/scaling.md"
        )


def _torchrun_store() -> Any:
    _need("MASTER_ADDR", "MASTER_PORT")
    store, _, _ = next(rendezvous("env://", timeout=BETWEEN))
    return store


def _own_store() -> TCPStore:
    """A store in this process that only this machine reaches."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    return TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, timeout=BETWEEN, master_listen_fd=listener.detach()
    )


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let gloo talk inside this machine only, unless the user has said where."""
    names = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if "GLOO_SOCKET_IFNAME" in os.environ or not names:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = names.pop()
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]


def _start(config: TrainingConfig, follower: Follower, team: Team) -> Iterator[tuple[int, SpawnProcess]]:
    """Start all processes but the first; a signal to stop may reach them too, but only the first one heeds it."""
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # which would let some through again
    with _held_back():
        for other in range(1, team.size):
            place = Team(other, team.size, other, team.size)
            arguments = (config, follower, place, team.store.port, torch.get_num_threads())
            process = context.Process(target=_other_process, args=arguments, daemon=True)
            process.start()
            yield other, process


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals to stop wait until the end of the `with`; for processes started inside, for ever."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _other_process(config: TrainingConfig, follower: Follower, team: Team, port: int, threads: int) -> None:
    """What a process that the first one has started does."""
    answer_all(signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_process()
    torch.set_num_threads(threads)
    try:
        team.store = TCPStore(LOOPBACK, port, is_master=False, timeout=BETWEEN)
        _follow(config, follower, team)
    except Exception:
        sys.exit(1)  # the first process knows and tells


def _end_with_parent() -> None:
    """End this process when the one that has started it is no more, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _follow(config: TrainingConfig, follower: Follower, team: Team) -> None:
    """Do what the first process calls for, and tell it why if that is not possible."""
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            of_first = json.loads(team.store.get("training/begun"))
            follower(TrainingConfig(**of_first | {name: getattr(config, name) for name in OF_THE_MACHINE}), team)
    except Exception as error:
        if _is_lost(error):
            return  # another process has ended; what happened is told there, or by who has started it
        reason = str(error) if isinstance(error, InputError) else traceback.format_exc()
        with suppress(RuntimeError):
            team.store.set(f"training/failed/{team.rank}", reason)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost(error: Exception) -> bool:
    """Whether another process cannot be reached any more."""
    told = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in told or "connection" in told or "nccl" in told)
    )


def _check_alive(team: Team, others: dict[int, SpawnProcess]) -> None:
    ended = _ended(team, others)
    if ended is not None:
        raise InputError(ended)


def _who_ended(team: Team, others: dict[int, SpawnProcess], error: RuntimeError) -> str | None:
    """Which other process has ended and what happened to it, if one has; they may need a moment to tell."""
    until = time.monotonic() + TELLING_SECONDS
    while time.monotonic() < until:
        ended = _ended(team, others)
        if ended is not None:
            return ended
        time.sleep(0.05)
    if by_torchrun() and _is_lost(error):
        return f"another process has ended; torchrun tells which one, and why ({str(error).splitlines()[0]})"
    return None


def _ended(team: Team, others: dict[int, SpawnProcess]) -> str | None:
    codes = {other: process.exitcode for other, process in others.items()}  # before looking for what they have told
    for other in range(1, team.size):
        if team.store.check([f"training/failed/{other}"]):
            told = team.store.get(f"training/failed/{other}").decode()
            return f"rank {other} of {team.size} processes: {told}"
    for other, code in codes.items():
        if code:
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
            return (
                f"rank {other} of {team.size} processes {how}; the system kills processes when memory runs out: try "
                f"fewer processes or a smaller micro_batch"
            )
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
