"""Measure the load of the services of a shared study: per training run, and per worker of a large study.

    python -m tests.services.limits

starts the services of compose.yaml without containers, and trains runs of two lengths there. It counts the requests and
the CPU time of each server; the difference between the lengths is the cost of an epoch. Then it times a worker's
requests to PostgreSQL while 10, 100 and 1000 other workers are active. The results are kept in `limits.json` and
written into docs/scale.md.
"""

import argparse
import io
import json
import os
import re
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import TrialState, create_trial

from benchmarks.machine import machine
from benchmarks.page import with_part
from segmentation.metrics import METRICS
from segmentation.system.processes import me
from studies.base.tables import table
from studies.config import StudyConfig, TrainConfig, TuneConfig
from studies.runs.training import run_training
from studies.search.budget import may_start
from studies.search.plan import make_plan
from studies.search.pruners import build_pruner
from studies.search.retries import reap
from studies.search.samplers import SeededByTrial
from studies.search.space import suggest
from studies.search.storage import open_storage
from studies.search.trials import EPOCHS, VALUES, WORKER
from studies.search.worker import Worker
from tests.conftest import PROJECT, write_own_data
from tests.services.stack import Stack, stack
from tests.studies.search.conftest import tiny

SERVED = re.compile("PG|MLFLOW")
REQUEST = re.compile(r'"([A-Z]+) (?:/api/2\.0)?/(mlflow/[a-z-]+/[a-z-]+|mlflow-artifacts)')
LENGTHS = 3, 43
"""Epochs."""
SERVERS = {"mlflow": "the MLflow server", "objects": "the object store", "postgres": "PostgreSQL, for MLflow"}
KEPT, PAGE = Path(__file__).parent / "limits.json", PROJECT / "docs" / "scale.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--others", type=int, nargs="*", default=[10, 100, 1000], help="workers at work meanwhile")
    options = parser.parse_args(arguments)
    del os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"]  # tests sample more often than users do
    found: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), "trainings": [], "workers": []}
    with tempfile.TemporaryDirectory(prefix="limits-") as folder, stack() as services:
        os.chdir(folder)
        os.environ.update({key: value for key, value in services.worker().environment.items() if SERVED.match(key)})
        trainings(services, Path(folder), False)  # warm-up
        for log_model in (False, True):
            found["trainings"].append(trainings(services, Path(folder), log_model))
            print(json.dumps(found["trainings"][-1]), flush=True)
        for others in options.others:
            found["workers"].append(asked(others))
            print(json.dumps(found["workers"][-1]), flush=True)
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return docs/scale.md with the tables of the kept results."""
    found = json.loads(KEPT.read_text())
    without, with_model = found["trainings"]
    requests = [str(sum(each["requests_a_training"].values())) for each in (without, with_model)]
    rows = [["requests to the MLflow server", *requests, str(without["requests_an_epoch"])]]
    for name, server in SERVERS.items():
        once = [f"{each['milliseconds_a_training'][name]} ms" for each in (without, with_model)]
        rows.append([f"CPU time of {server}", *once, f"{max(1, round(without['milliseconds_an_epoch'][name]))} ms"])
    waits = [
        [f"{each['others']:,}", f"{each['milliseconds_an_epoch']:.0f} ms",
         f"{each['milliseconds_between_trainings']:.0f} ms"]
        for each in found["workers"]
    ]  # fmt: skip
    lines = [
        *table(["", f"run of {LENGTHS[0]} epochs", "with its model", "each further epoch"], rows), "",
        *table(["other workers of the study", "wait for PostgreSQL after an epoch", "between two trials"], waits),
    ]  # fmt: skip
    about = found["machine"]
    lines += [
        "",
        f"<sub>`python -m tests.services.limits` · {found['date']} · {about['cores']} cores, {about['cpu']}</sub>",
    ]
    return with_part(PAGE.read_text(encoding="utf-8"), "limits", "\n".join(lines))


def trainings(services: Stack, place: Path, log_model: bool) -> dict[str, Any]:
    """Return the cost of a run and of each further epoch for the servers."""
    root = place / "own" if (place / "own").is_dir() else write_own_data(place)
    found = []
    for epochs in LENGTHS:
        config = TrainConfig(**tiny(root, epochs=epochs, log_model=log_model, examples=6))
        before, requests = _seconds(services), _requests(services)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            run_training(config)
        time.sleep(1)
        seconds = {name: taken - before[name] for name, taken in _seconds(services).items()}
        found.append((seconds, _requests(services) - requests))
    (short, few), (long, many) = found
    more = LENGTHS[1] - LENGTHS[0]
    return {
        "log_model": log_model,
        "requests_a_training": dict(few), "requests_an_epoch": round((many.total() - few.total()) / more, 1),
        "milliseconds_a_training": {name: round(1000 * taken) for name, taken in short.items()},
        "milliseconds_an_epoch": {name: round(1000 * (long[name] - short[name]) / more, 1) for name in short},
    }  # fmt: skip


def _seconds(services: Stack) -> dict[str, float]:
    """Return the CPU time that each server has used."""
    objects, mlflow = services.servers
    (postgres,) = [
        process for process in psutil.process_iter(["cmdline"])
        if f"-p {services.postgres.port} " in " ".join(process.info["cmdline"] or [])
    ]  # fmt: skip
    roots = {"mlflow": psutil.Process(mlflow), "objects": psutil.Process(objects), "postgres": postgres}
    return {name: sum(map(_used, [first, *first.children(True)])) for name, first in roots.items()}


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _requests(services: Stack) -> Counter[str]:
    return Counter(" ".join(found) for found in REQUEST.findall(services.log.read_text()))


def asked(others: int) -> dict[str, Any]:
    """Return the milliseconds that a worker waits for PostgreSQL after an epoch and between two trials."""
    config = TuneConfig(epochs=50, n_trials=10**9, study_name=f"others {others}", storage="postgresql:///optuna")
    wanted = make_plan(config)
    warnings.filterwarnings("ignore", "Heartbeat of storage")  # trials are asked for one by one, as nowhere else
    with open_storage(StudyConfig(storage=config.storage), heartbeat=config.heartbeat) as storage:
        sampler, pruner = (
            SeededByTrial(config.sampler, config.seed, wanted.space),
            build_pruner(config, len(wanted.objectives)),
        )
        study = optuna.create_study(storage=storage, study_name=wanted.name, sampler=sampler, pruner=pruner)
        distributions: Any = {name: dimension.distribution() for name, dimension in wanted.space.items()}
        for number in range(others):
            study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, distributions=distributions,
                    params={name: each.low * (1 + number / others) for name, each in distributions.items()},
                    user_attrs={WORKER: me() | {"host": "another"}, EPOCHS: 10, VALUES: {}},
                    intermediate_values=dict.fromkeys(range(1, 11), 1.0),
                )
            )  # fmt: skip
        worker = Worker(study, wanted, parent="", role="search", max_failures=1)
        trial = study.ask()
        suggest(trial, wanted.space)
        metrics = {f"val/{name}": 0.0 for name in METRICS}  # better than all others, so that it is never pruned
        epochs = iter(range(1, 50))
        at_the_end_of_an_epoch = _median(lambda: worker._report_epoch(trial, next(epochs), metrics), 15)

        def between() -> None:
            reap(study)
            assert may_start(study, wanted)
            next_trial = study.ask()
            suggest(next_trial, wanted.space)
            study.tell(next_trial, 1.0)

        return {
            "others": others, "milliseconds_an_epoch": at_the_end_of_an_epoch,
            "milliseconds_between_trainings": _median(between, 5),
        }  # fmt: skip


def _median(work: Callable[[], None], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 1)


if __name__ == "__main__":
    main()
