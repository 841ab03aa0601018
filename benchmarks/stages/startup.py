"""Times of start and end: `--help`, the first training step, the end of a run, and the overhead of `mlflow run`.

Every round starts a program anew, from files that the system has in memory. Nothing is sent to MLflow's makers.
"""

import atexit
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import VOC, Case, Goal
from benchmarks.rounds import Contestant, Part

TITLE = "Start and end"
PROJECT = Path(__file__).parents[2]
HELP_SECONDS = 0.3
"""Goal for `train --help`."""
END_SECONDS = 6
"""Goal from the last epoch to the end of the process."""
MORE_SECONDS = 2
"""Goal for `mlflow run` of a short command, beyond a project that does nothing."""
OURS, PYTHON, IMPORTS = "this project", "bare Python", "bare imports"
ALONE, MLFLOW_HELP = "the same without `mlflow run`", "`mlflow --help`"
BARE_END, NO_PROJECT = "the same without plots and model", "`mlflow run` of a project that does nothing"
SIDE, TRAIN, VAL = 64, 4, 2
"""Size and numbers of the training and validation images."""

UNTIL_THE_FIRST_STEP = """
import os, sys
import mlproject
from studies.entry_points import train

def stop(step, images, *rest):
    print("first batch:", *images.shape, flush=True)
    os._exit(0)

def first_step(config):
    from segmentation.training.step import TrainingStep
    assert "__call__" in vars(TrainingStep)
    TrainingStep.__call__ = stop
    run(config)

run, train.run = train.run, first_step
sys.exit(mlproject.main(sys.argv[1:]))
"""
"""The command line with a first training step that ends the program."""
BARE_IMPORTS = """
import os
import torch, torchvision, mlflow, mlflow.store.tracking.sqlalchemy_store
print("imported", flush=True)
os._exit(0)
"""

Run = Callable[[], Any]


def cases(quick: bool) -> list[Case]:
    """Ways to start, and the end of a run; each contestant has its own folder and store."""
    if not VOC.is_dir():
        raise SystemExit(f"The stage startup needs a part of VOC 2007 in {VOC}.")
    place = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    helped = [
        Contestant(OURS, "ours", start, (place / "help", [f"{PROJECT}/mlproject.py", "train", "--help"])),
        Contestant(PYTHON, "limit", start, (place / "nothing", ["-c", "pass"])),
    ]
    begun = [
        Contestant(
            OURS,
            "ours",
            start,
            (place / "step", ["-c", UNTIL_THE_FIRST_STEP, "train", *_flags(_settings(place / "step"))]),
        ),
        Contestant(IMPORTS, "limit", start, (place / "imports", ["-c", BARE_IMPORTS])),
    ]
    ended = [
        Contestant(OURS, "ours", end, (place / "end", {})),
        Contestant(BARE_END, "limit", end, (place / "bare", {"plot_every": 0, "examples": 0, "log_model": False})),
    ]
    mlflow_run = ["-m", "mlflow", "run", "--env-manager", "local"]
    run = [*mlflow_run, str(PROJECT), "-e", "train"]
    alone = [f"{PROJECT}/mlproject.py", "train", *_flags(_settings(place / "alone"))]
    trained = [
        Contestant(OURS, "ours", start, (place / "run", [*run, *_parameters(place / "run")])),
        Contestant(ALONE, "limit", start, (place / "alone", alone)),
        Contestant(MLFLOW_HELP, "limit", start, (place / "mlflow", ["-m", "mlflow", "--help"])),
    ]
    first = [Goal(IMPORTS, round(1 / 1.2, 3))]
    short = {
        command: [
            Contestant(OURS, "ours", start, (place / command, [*mlflow_run, str(PROJECT), "-e", command, *more])),
            Contestant(NO_PROJECT, "limit", start, (place / f"beside_{command}", [*mlflow_run, "project"])),
        ]
        for command, more in (("doctor", []), ("status", ["-P", f"storage={place / 'status' / 'studies.journal'}"]))
    }
    return [
        Case("`train --help`", "starts", 1, helped, _help, rounds=9),
        Case("`train` until the first step", "starts", 1, begun, _first_step, first, rounds=7),
        Case("from the last epoch to the end of `train`", "ends", 1, ended, _ended, rounds=7),
        Case("`mlflow run` of a short run", "starts", 1, trained, _trained, rounds=7),
        *(Case(f"`mlflow run` of `{name}`", "starts", 1, each, _short, rounds=7) for name, each in short.items()),
    ]


def _help(returned: Mapping[str, Any]) -> str:
    output = returned[OURS]["output"]
    assert "--learning_rate" in output, f"this is no help: {output}"
    seconds = returned[OURS]["seconds"]
    return (
        f"The help of all fields takes {seconds:.2f} s (median), {'within' if seconds <= HELP_SECONDS else 'beyond'} "
        f"the goal of {HELP_SECONDS} s; bare Python takes {returned[PYTHON]['seconds']:.2f} s."
    )


def _first_step(returned: Mapping[str, Any]) -> str:
    output, imported = returned[OURS]["output"], returned[IMPORTS]["output"]
    assert f"first batch: {TRAIN} 3 {SIDE} {SIDE}" in output, f"there was no first step: {output}"
    assert "imported" in imported, imported
    return (
        f"This project stops when a batch of {TRAIN} x 3 x {SIDE} x {SIDE} reaches the first step: its run is open in "
        f"MLflow's sqlite store, with configuration and data, and the model is built. The limit imports torch, "
        f"torchvision, MLflow and MLflow's sqlite store, and does nothing with them."
    )


def _ended(returned: Mapping[str, Any]) -> str:
    found = {name: _figures(each["place"] / "mlflow.db") for name, each in returned.items()}
    assert "val/ece" in found[OURS], f"nothing was scored: {found[OURS]}"
    assert found[OURS] == found[BARE_END], f"the figures differ: {found}"
    place, seconds = returned[OURS]["place"], returned[OURS]["seconds"]
    last = max(place.glob("mlruns/*/*/artifacts"), key=lambda folder: folder.stat().st_mtime)
    plots = len([*last.rglob("*.png")])
    return (
        f"Both have trained and scored LR-ASPP on VOC 2007, and compute the intervals of 66 images and log the same "
        f"{len(found[OURS])} metrics. This project also logs the model and {plots} plots; its {seconds:.1f} s (median) "
        f"are {'within' if seconds <= END_SECONDS else 'beyond'} the goal of {END_SECONDS} s."
    )


def _short(returned: Mapping[str, Any]) -> str:
    assert "nothing is done" in returned[NO_PROJECT]["output"] + returned[NO_PROJECT]["errors"], returned[NO_PROJECT]
    more = returned[OURS]["seconds"] - returned[NO_PROJECT]["seconds"]
    return (
        f"This project takes {more:.1f} s more than MLflow's own command line (medians), "
        f"{'within' if more <= MORE_SECONDS else 'beyond'} the goal of {MORE_SECONDS} s."
    )


def _trained(returned: Mapping[str, Any]) -> str:
    found = {name: _figures(returned[name]["place"] / "mlflow.db") for name in (OURS, ALONE)}
    assert "val/ece" in found[ALONE], f"nothing was scored: {found[ALONE]}"
    assert found[OURS] == found[ALONE], f"the figures differ: {found}"
    seconds = {name: each["seconds"] for name, each in returned.items()}
    more = seconds[OURS] - seconds[ALONE]
    return (
        f"Both runs logged the same {len(found[ALONE])} metrics. `mlflow run` takes {more:.1f} s more than "
        f"the command that it runs (medians); MLflow's command line takes {seconds[MLFLOW_HELP]:.1f} s for its "
        f"help."
    )


def start(place: Path, arguments: Sequence[str]) -> Run:
    """Run Python with these arguments in a folder of its own; it must succeed.

    Its time is the median without the first, in which the store is made and images are prepared.
    """
    _write_images(place / "data")
    _write_project(place / "project")
    _write_study(place / "studies.journal")
    spent: list[float] = []

    def run() -> dict[str, Any]:
        clock = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=place,
            env=_environment(place),
            capture_output=True,
            text=True,
            check=False,
        )
        spent.append(time.perf_counter() - clock)
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr}"
        return {
            "seconds": statistics.median(spent[1:] or spent), "output": done.stdout, "errors": done.stderr,
            "place": place,
        }  # fmt: skip

    return run


def end(place: Path, fields: Mapping[str, object]) -> Run:
    """Train LR-ASPP for two epochs in a folder of its own; the time from the last one to the end of the process counts.

    The plots of the first epoch have imported matplotlib, as in every run of more than one epoch.
    """
    place.mkdir()
    given = {
        "dataset": "voc2007", "data_dir": VOC, "model": "lraspp_mobilenet_v3_large", "epochs": 2, "batch_size": 16,
        "device": "cpu",
    } | fields  # fmt: skip
    command = [sys.executable, f"{PROJECT}/mlproject.py", "train", *_flags(given)]
    spent: list[float] = []

    def run() -> Part:
        process = subprocess.Popen(
            command, cwd=place, env=_environment(place), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 2/2:"):
                clock = time.perf_counter()
        assert process.wait() == 0, f"{command} ended with {process.returncode}: {''.join(lines)}"
        spent.append(time.perf_counter() - clock)
        return Part(spent[-1], {"seconds": statistics.median(spent[1:] or spent), "place": place})

    return run


def _environment(place: Path) -> dict[str, str]:
    return os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(PROJECT), "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip


def _write_project(folder: Path) -> None:
    """An MLflow project that does nothing."""
    folder.mkdir()
    (folder / "MLproject").write_text("name: nothing\nentry_points:\n  main:\n    command: echo nothing is done\n")


def _write_study(file: Path) -> None:
    """An Optuna study of 20 trials."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(file))), study_name="study")
    study.optimize(lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=20)


def _write_images(folder: Path) -> None:
    """Noise with classes in two halves, in the layout of `dataset=folder`."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    halves = np.repeat(np.uint8([0, 1]), SIDE // 2)[:, None].repeat(SIDE, 1)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            noise = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            for kind, pixels in (("images", noise), ("masks", halves)):
                file = folder / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    (folder / "classes.txt").write_text("upper\nlower\n")


def _settings(place: Path) -> dict[str, object]:
    """Fields of a run that takes seconds."""
    return {
        "dataset": "folder", "data_dir": place / "data", "cache_dir": place / "cache", "resize": SIDE, "crop": SIDE,
        "model": "lraspp_mobilenet_v3_large", "epochs": 1, "batch_size": TRAIN, "log_model": False, "examples": 0,
        "checkpoint_dir": place / "checkpoints", "device": "cpu",
    }  # fmt: skip


def _flags(fields: Mapping[str, object]) -> list[str]:
    return [text for name, value in fields.items() for text in (f"--{name}", str(value))]


def _parameters(place: Path) -> list[str]:
    return [text for name, value in _settings(place).items() for text in ("-P", f"{name}={value}")]


def _figures(file: Path) -> dict[str, float]:
    """Metrics of the last run, except those that depend on time."""
    query = """
        SELECT key, value FROM latest_metrics
        WHERE run_uuid = (SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1)
        AND key NOT LIKE 'system/%' AND key NOT IN ('epoch_seconds', 'images_per_second')
    """
    connection = sqlite3.connect(file)
    found = dict(connection.execute(query).fetchall())
    connection.close()
    return found
