"""Several workers of a study as processes of this machine, each with its own GPUs."""

import io
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import optuna
import torch
from optuna import Study

from segmentation.devices import resolve_device
from segmentation.errors import InputError, counted
from segmentation.system import interruption
from segmentation.system.runtime import prepare_process
from studies import tracking
from studies.base.redaction import without_password
from studies.config import TuneConfig
from studies.search.log_study import log_progress
from studies.search.plan import Plan
from studies.search.progress import StudyProgress
from studies.search.pruners import build_pruner
from studies.search.retries import reap
from studies.search.samplers import SeededByTrial
from studies.search.storage import open_storage
from studies.search.worker import Worker

LAST_LINES = 30
"""Number of lines of a crashed worker's traceback that are printed."""


def run_workers(study: Study, plan: Plan, config: TuneConfig, parent: str, role: str, deadline: float) -> None:
    """Start `workers` processes and wait for them; terminate them if this process is interrupted.

    Raises:
        InputError: all workers ended with an error.
    """
    threads = str(max(1, (os.cpu_count() or 1) // (config.workers * config.processes)))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    gpus = gpus_of_workers(config)
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[SpawnProcess, Connection]] = []
    errors = []
    try:
        for worker in range(config.workers):
            receiver, sender = context.Pipe(duplex=False)
            seconds_left = None if deadline == float("inf") else deadline - time.monotonic()
            process = context.Process(target=_run_worker, args=(sender, config, plan, parent, role, seconds_left))
            with _environment("CUDA_VISIBLE_DEVICES", gpus[worker] if gpus else None):
                process.start()
            sender.close()
            workers.append((process, receiver))
        pids = [process.pid for process, _ in workers if process.pid is not None]
        with StudyProgress(study, plan, lambda: log_progress(study, plan, parent), pids) as progress:
            while any(process.is_alive() for process, _ in workers):
                progress.update()
                time.sleep(0.5)
            progress.update()
    except BaseException:
        for process, _ in workers:
            if process.is_alive():
                process.terminate()
        raise
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        for process, _ in workers:
            process.join()
    for number, (process, receiver) in enumerate(workers, 1):
        if code := process.exitcode:
            reason = f"died by signal {-code}"
            if code == interruption.EXIT_CODE:
                reason = "stopped"
            elif code > 0:
                reason = f"ended with exit code {code}; its last lines are above"
            with suppress(EOFError):
                reason = receiver.recv()
            errors.append(f"worker {number} {reason}")
            print(f"Worker {number} {reason.rstrip('.')}.", file=sys.stderr)
    reap(study)
    if len(errors) == len(workers):
        raise InputError(f"no worker is left, {counted(len(workers), 'worker')} stopped: {errors[-1]}")


def gpus_of_workers(config: TuneConfig) -> list[str] | None:
    """`CUDA_VISIBLE_DEVICES` of each worker; None for a single worker and on the CPU.

    Raises:
        InputError: there are fewer GPUs than processes, or `device` names one device for several workers.
    """
    if config.workers == 1:
        return None
    device, visible = resolve_device(config.device), os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return assign_gpus(device, config.workers, config.processes, count, visible)


def assign_gpus(
    device: torch.device, workers: int, processes: int, count: int, visible: str | None
) -> list[str] | None:
    """Assign different GPUs to each worker, one for each of its processes.

    Args:
        device: device of the workers.
        workers: number of workers.
        processes: number of processes of each worker.
        count: number of GPUs visible to this process.
        visible: this process's CUDA_VISIBLE_DEVICES; None if it is not set.

    Returns:
        CUDA_VISIBLE_DEVICES of each worker; None on the CPU.

    Raises:
        InputError: there are fewer GPUs than processes, or `device` names one device for several workers.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda" or device.index is not None:
        raise InputError(
            f"device={device} names one device, but workers={workers} need one each: leave out device, or set workers=1"
        )
    needed = workers * processes
    if needed > count:
        raise InputError(
            f"workers={workers} with processes={processes} each need {needed} GPUs, but {count} are visible: set at "
            f"most workers={max(1, count // processes)}, or device=cpu"
        )
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [",".join(names[start : start + processes]) for start in range(0, needed, processes)]


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for processes that start in this context; None leaves it unchanged."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before


def _run_worker(
    sender: Connection, config: TuneConfig, plan: Plan, parent: str, role: str, seconds_left: float | None
) -> None:
    """Main function of a worker process. It prints nothing, and sends the reason if it stops with an error."""
    interruption.catch()
    sys.stderr = io.StringIO()
    try:
        prepare_process()
        tracking.keep_records_in(config.records)
        deadline = float("inf") if seconds_left is None else time.monotonic() + seconds_left
        with open_storage(config, config.heartbeat) as storage:
            study = optuna.load_study(
                study_name=plan.name,
                storage=storage,
                sampler=SeededByTrial(plan.sampler, plan.base.seed, plan.space),
                pruner=build_pruner(config, len(plan.objectives)),
            )
            with tracking.joined(parent):
                Worker(study, plan, parent, role, config.max_failures, deadline).work()
    except InputError as error:
        sender.send(f"stopped: {without_password(str(error))}")
        sys.exit(1)
    except Exception as error:
        lines = without_password("".join(traceback.format_exception(error))).strip().splitlines()[-LAST_LINES:]
        sender.send("crashed, which is a bug of this program or of a library; last lines:\n" + "\n".join(lines))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(interruption.EXIT_CODE)
