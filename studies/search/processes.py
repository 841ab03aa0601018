"""Several workers of a study, each a process of this machine."""

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
from segmentation.errors import InputError
from segmentation.system import interruption
from segmentation.system.runtime import prepare_process
from studies import tracking
from studies.base.redaction import without_password
from studies.config import TuneConfig
from studies.search.live import Live
from studies.search.plan import Plan
from studies.search.record import log_progress
from studies.search.samplers import SeededByTrial, build_pruner
from studies.search.storage import open_storage, reap
from studies.search.worker import Worker

LAST_LINES = 30
"""So many lines of a crashed worker's traceback are printed."""


def work_together(study: Study, wanted: Plan, config: TuneConfig, parent: str, role: str, deadline: float) -> None:
    """Start the workers, watch them, and stop them when this process is stopped."""
    threads = str(max(1, (os.cpu_count() or 1) // (config.workers * config.processes)))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    gpus = gpus_of_workers(config)
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[SpawnProcess, Connection]] = []
    failed = []
    try:
        for worker in range(config.workers):
            ours, theirs = context.Pipe(duplex=False)
            left = None if deadline == float("inf") else deadline - time.monotonic()
            process = context.Process(target=_worker_process, args=(theirs, config, wanted, parent, role, left))
            with _environment("CUDA_VISIBLE_DEVICES", gpus[worker] if gpus else None):
                process.start()
            theirs.close()
            workers.append((process, ours))
        pids = [process.pid for process, _ in workers if process.pid is not None]
        with Live(study, wanted, lambda: log_progress(study, wanted, parent), pids) as live:
            while any(process.is_alive() for process, _ in workers):
                live.show()
                time.sleep(0.5)
            live.show()
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
    for number, (process, ours) in enumerate(workers, 1):
        if process.exitcode:
            reason = f"died by signal {-process.exitcode}"
            if process.exitcode > 0:  # 130 is what this program leaves when it is told to stop
                code = process.exitcode
                reason = "stopped" if code == 130 else f"ended with exit code {code}; its last lines are above"
            with suppress(EOFError):
                reason = ours.recv()
            failed.append(f"worker {number} {reason}")
            print(f"Worker {number} {reason.rstrip('.')}.", file=sys.stderr)
    reap(study)
    if len(failed) == len(workers):
        raise InputError(f"every worker has stopped: {failed[-1]}")


def gpus_of_workers(config: TuneConfig) -> list[str] | None:
    """The GPUs of each worker, as `CUDA_VISIBLE_DEVICES` names them; None if they compute on the CPU.

    Raises:
        InputError: there is not a GPU for each process of each worker.
    """
    if config.workers == 1:
        return None
    device, visible = resolve_device(config.device), os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return divided_gpus(device, config.workers, config.processes, count, visible)


def divided_gpus(
    device: torch.device, workers: int, processes: int, count: int, visible: str | None
) -> list[str] | None:
    """Give each worker GPUs of its own, one for each of its processes.

    Args:
        device: what the workers compute on.
        workers: their number.
        processes: of each worker.
        count: GPUs that this process sees.
        visible: how it names them in CUDA_VISIBLE_DEVICES; None if that is not set.

    Returns:
        For each worker what CUDA_VISIBLE_DEVICES is to be; None on the CPU.

    Raises:
        InputError: there are too few, or `device` is one of them.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda" or device.index is not None:
        raise InputError(
            f"device={device} is one device, but workers={workers} need one each: leave device out, or give workers=1"
        )
    needed = workers * processes
    if needed > count:
        each = "one" if processes == 1 else f"{processes}"
        raise InputError(
            f"workers={workers} need {each} GPU(s) each, {needed} in all, but {count} can be seen here: give at most "
            f"workers={max(1, count // processes)}, or device=cpu"
        )
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [",".join(names[start : start + processes]) for start in range(0, needed, processes)]


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for processes that are started inside; None leaves it as it is."""
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


def _worker_process(
    told: Connection, config: TuneConfig, wanted: Plan, parent: str, role: str, left: float | None
) -> None:
    """Work on the study in a process of its own, which prints nothing but sends why it stopped."""
    interruption.catch()
    sys.stderr = io.StringIO()
    try:
        prepare_process()
        tracking.keep_records_in(config.records)
        deadline = float("inf") if left is None else time.monotonic() + left
        with open_storage(config, config.heartbeat) as storage:
            study = optuna.load_study(
                study_name=wanted.name,
                storage=storage,
                sampler=SeededByTrial(wanted.sampler, wanted.base.seed),
                pruner=build_pruner(config, len(wanted.goals)),
            )
            with tracking.joined(parent):
                Worker(study, wanted, parent, role, config.max_failures, deadline).work()
    except InputError as error:
        told.send(f"stopped: {without_password(str(error))}")
        sys.exit(1)
    except Exception as error:
        lines = without_password("".join(traceback.format_exception(error))).strip().splitlines()[-LAST_LINES:]
        told.send("crashed, which is a fault of this program or of a library; its last lines:\n" + "\n".join(lines))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
