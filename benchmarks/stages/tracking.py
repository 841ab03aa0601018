"""Cost of logging 50 epochs: metrics and plots, in a file and on a server, compared with Lightning's logger.

Every round records as many epochs more in the same run. The figures have the names of a real epoch and random values,
the same for all contestants; the plots are drawn from that epoch.
"""

import atexit
import itertools
import logging
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant
from benchmarks.stages import training
from segmentation.system.runtime import prepare_process
from studies.config import TrainConfig

TITLE = "Tracking, 50 epochs"
NETWORK = "lraspp_mobilenet_v3_large"
SMALL = training.Epoch(NETWORK, 16, 16)
"""Images of the real epoch that gives metric names and plots."""
OURS, LIGHTNING, EMPTY = "this project", "Lightning's MLFlowLogger", "the same, in an empty store"
TRAINING = "one epoch of training, untracked"
SHARE = 0.01
"""Largest fraction of a run's time that tracking may take."""
QUIET = training.QUIET

Store = Literal["sqlite", "local server"]
STORES: tuple[Store, ...] = "sqlite", "local server"
Run = Callable[[], dict[str, Any]]


def cases(quick: bool) -> list[Case]:
    """Metrics on both stores, with plots, and after many other runs; one case in quick mode."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage tracking needs CamVid in {CAMVID}.")
    place = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    found = []
    epochs, past = 10 if quick else 50, 1000
    for store in STORES[:1] if quick else STORES:
        name = f"metrics, {store}"
        ours = Contestant(OURS, "ours", this_project, (place / f"{name}, ours", store, epochs), QUIET)
        theirs = Contestant(LIGHTNING, "peer", lightning, (place / f"{name}, Lightning", store, epochs), QUIET)
        found.append(_alike_case(name, epochs, [ours, theirs], Goal(LIGHTNING, 1.0)))
    trained = training.Epoch(NETWORK, *((96, 32) if quick else (367, 101)))
    for store in STORES[1:] if quick else STORES:
        name = f"metrics and plots of {epochs} epochs, {store}"
        ours = Contestant(OURS, "ours", this_project, (place / name, store, epochs, True), QUIET)
        alone = Contestant(TRAINING, "limit", one_epoch, (place / f"{name}, training", trained))
        goals = [] if quick else [Goal(TRAINING, 1 / (epochs * SHARE))]
        share = partial(_share, epochs, trained)
        found.append(Case(name, "rounds", 1, [ours, alone], share, goals, rounds=3))
    if quick:
        return found
    name = f"metrics, sqlite with {past:,} past runs"
    ours = Contestant(OURS, "ours", this_project, (place / name, "sqlite", epochs, False, past), QUIET)
    empty = Contestant(EMPTY, "limit", this_project, (place / f"{name}, empty", "sqlite", epochs), QUIET)
    return [*found, _alike_case(name, epochs, [ours, empty], Goal(EMPTY, 0.9))]


def _alike_case(name: str, epochs: int, contestants: Sequence[Contestant], goal: Goal) -> Case:
    return Case(name, "epochs", epochs, contestants, partial(_alike, epochs), [goal])


def _alike(epochs: int, returned: Mapping[str, Any]) -> str:
    logged = [_logged(each) for each in returned.values()]
    assert len(logged[0]) == epochs, f"{len(logged[0])} epochs instead of {epochs}"
    assert all(each == logged[0] for each in logged), "what was read back differs"
    figures = sum(map(len, logged[0].values()))
    return (
        f"Read back from the stores, {' and '.join(returned)} logged the same {figures} metrics, "
        f"{figures // epochs} in each of {epochs} epochs, with equal names, steps and values."
    )


def _share(epochs: int, trained: training.Epoch, returned: Mapping[str, Any]) -> str:
    ours, alone = returned[OURS], returned[TRAINING]
    logged = _logged(ours)
    assert len(logged) == epochs, f"{len(logged)} epochs instead of {epochs}"
    plots, due = ours["plots"], [epoch for epoch in range(1, epochs + 1) if _is_due(epoch)]
    assert plots == 3 * len(due), f"{plots} plots instead of 3 after each of {len(due)} epochs"
    seconds = alone["seconds"]
    return (
        f"A round of this project logs {epochs} epochs, {sum(map(len, logged.values()))} metrics and {plots} plots, "
        f"all of which were found in the store, in {ours['seconds']:.2f} s. The limit trains one epoch of {NETWORK} on "
        f"{trained.train} images, scored on {trained.val}, in {seconds:.2f} s. Medians over the rounds; so tracking is "
        f"{ours['seconds'] / (epochs * seconds):.2%} of {epochs} such epochs, and its metrics alone are "
        f"{ours['figures'] / (epochs * seconds):.2%}."
    )


def this_project(place: Path, store: Store, epochs: int, with_plots: bool = False, past_runs: int = 0) -> Run:
    """Log what `train` logs after each epoch, with plots in the epochs that have them."""
    prepare_process()
    training.use_all_cores()
    folder, uri = _open(place, store)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    network, epoch, data, config = _real_epoch(place)

    import torch

    from studies import tracking
    from studies.runs.training import log_epoch_plots

    _make_runs(past_runs)
    stack = ExitStack()
    run_id = stack.enter_context(tracking.tracked_run("benchmark", "benchmark", {}))
    atexit.register(stack.close)
    rounds, spent, spent_on_figures = itertools.count(), [], []

    def run() -> dict[str, Any]:
        first, on_figures = next(rounds) * epochs, 0.0
        clock = time.perf_counter()
        for number in range(1, epochs + 1):
            begun = time.perf_counter()
            tracking.log_metrics(_figures(epoch.metrics(), first + number), step=first + number)
            on_figures += time.perf_counter() - begun
            if with_plots and _is_due(number):
                now = replace(epoch, number=first + number)
                log_epoch_plots(network, now, data.val, config, torch.device("cpu"))
        assert tracking.wait_until_sent()
        spent.append(time.perf_counter() - clock)
        spent_on_figures.append(on_figures)
        return {
            "file": folder / "mlflow.db", "run": run_id, "after": first,
            "seconds": _typical(spent), "figures": _typical(spent_on_figures),
            "plots": _plots(folder, run_id, first) if with_plots else 0,
        }  # fmt: skip

    return run


def lightning(place: Path, store: Store, epochs: int) -> Run:
    """Log the metrics of an epoch like a Trainer with this logger, which logs no plots."""
    training.use_all_cores()
    folder, uri = _open(place, store)
    _, epoch, _, _ = _real_epoch(place)

    from lightning.pytorch.loggers import MLFlowLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logger = MLFlowLogger("benchmark", tracking_uri=uri)
    run_id, rounds = logger.run_id, itertools.count()

    def run() -> dict[str, Any]:
        first = next(rounds) * epochs
        for number in range(1, epochs + 1):
            logger.log_metrics(_figures(epoch.metrics(), first + number), step=first + number)
        return {"file": folder / "mlflow.db", "run": run_id, "after": first}

    return run


def one_epoch(place: Path, work: training.Epoch) -> Run:
    """Train and score the next epoch in each round, without logging."""
    prepare_process()
    training.use_all_cores()
    from segmentation.training.loop import train
    from studies.runs.start import load_data, starting_model

    config = training.config_of(work, training.linked(work, place), place)
    data = load_data(config)
    network, _ = starting_model(config, data.train)
    trained, spent = train(network, data, config), []

    def run() -> dict[str, Any]:
        clock = time.perf_counter()
        next(trained)
        spent.append(time.perf_counter() - clock)
        return {"seconds": _typical(spent)}

    return run


def _typical(seconds: list[float]) -> float:
    """Median over the rounds after the warm-up."""
    return statistics.median(seconds[1:] or seconds)


def _is_due(epoch: int) -> bool:
    """Whether `train` draws plots after this epoch by default."""
    return epoch == 1 or epoch % TrainConfig.plot_every == 0


def _real_epoch(place: Path) -> tuple[Any, Any, Any, Any]:
    """A model after one epoch on some CamVid images, with that epoch, its data and its configuration."""
    from segmentation.training.loop import train
    from studies.runs.start import load_data, starting_model

    config = training.config_of(SMALL, training.linked(SMALL, place), place)
    data = load_data(config)
    network, _ = starting_model(config, data.train)
    return network, next(train(network, data, config)), data, config


def _figures(names: Mapping[str, float], epoch: int) -> dict[str, float]:
    import numpy as np

    return dict(zip(names, np.random.default_rng(epoch).random(len(names)).tolist(), strict=True))


def _make_runs(count: int) -> None:
    """Create finished runs with one metric each."""
    import mlflow
    from mlflow.entities import Metric

    client = mlflow.MlflowClient()
    experiment = client.create_experiment("past") if count else ""
    for number in range(count):
        run_id = client.create_run(experiment).info.run_id
        client.log_batch(run_id, [Metric("val/ece", number / count, number, 1)])
        client.set_terminated(run_id)


def _open(place: Path, store: Store) -> tuple[Path, str]:
    """A folder with an empty store, `mlflow.db`, and its address; the process works there from now on."""
    place.mkdir()
    os.chdir(place)
    if store == "sqlite":
        return place, f"sqlite:///{place / 'mlflow.db'}"
    stack = ExitStack()
    atexit.register(stack.close)
    return place, stack.enter_context(_server(place))


@contextmanager
def _server(place: Path) -> Iterator[str]:
    """A server on loopback whose store and artifacts are in a folder; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}", "--artifacts-destination", str(place / "mlruns"),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (place / "server.log").read_text()
                    time.sleep(0.25)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(20)


def _logged(returned: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Metrics of the epochs of the last round, read from the store's file."""
    query = "SELECT step, key, value FROM metrics WHERE run_uuid = ? AND step > ? AND key NOT LIKE 'system/%'"
    found: dict[int, dict[str, float]] = {}
    connection = sqlite3.connect(returned["file"])
    for step, name, value in connection.execute(query, (returned["run"], returned["after"])):
        found.setdefault(step, {})[name] = value
    connection.close()
    return found


def _plots(folder: Path, run_id: str, after: int) -> int:
    """Number of plots among the artifacts, without their small copies."""
    files = (folder / "mlruns").glob(f"*/{run_id}/artifacts/images/*.png")
    return sum(int(file.name.split("+step+")[1].partition("+")[0]) > after for file in files)
