"""A training that is killed again and again, at random moments: does it end with the figures of one that was not?

    python -m tests.faults.kills --times 50

starts the same `train` command with `resume=auto`, kills it by SIGKILL, and starts it again, until it has been killed
so many times and has finished. Then everything is compared with a training that was left alone: all figures of all
epochs, which must be there once each, the weights, and the states of the runs. Prints one line of JSON; ends with 1 if
anything is not as it should be.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import torch

from segmentation import checkpoints
from tests.conftest import PROJECT

SMALL = {
    "dataset": "shapes", "model": "lraspp_mobilenet_v3_large", "resize": 32, "crop": 32, "batch_size": 64,
    "examples": 0, "plot_every": 3, "momentum": 0.9, "flip": 0.5, "learning_rate": 0.02,
}  # fmt: skip
MEASURED_TIMES = ("epoch_seconds", "images_per_second", "system/")
"""Figures, by how they begin, that no two runs share."""


class Training:
    """The command, in a folder of its own."""

    def __init__(self, place: Path, epochs: int) -> None:
        place.mkdir(parents=True)
        self.fields = SMALL | {"epochs": epochs}
        self.place, self.uri = place, f"sqlite:///{place / 'mlflow.db'}"
        self.environment = os.environ | {
            "MLFLOW_TRACKING_URI": self.uri, "XDG_CACHE_HOME": str(place / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """Begin, or go on."""
        command = [
            sys.executable,
            str(PROJECT / "mlproject.py"),
            "train",
            *(f"--{k}={v}" for k, v in self.fields.items()),
        ]
        with (self.place / "said").open("a") as said:
            return subprocess.Popen([*command, *more], cwd=self.place, env=self.environment, stdout=said, stderr=said)

    def said(self) -> str:
        """All that was printed so far."""
        return (self.place / "said").read_text()

    def runs(self) -> list[Any]:
        """Every run of the folder."""
        client = mlflow.MlflowClient(self.uri)
        return client.search_runs([each.experiment_id for each in client.search_experiments()])

    def figures(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Step and value of every figure of a run that does not tell the time."""
        client = mlflow.MlflowClient(self.uri)
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith(MEASURED_TIMES)]
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)] for name in names
        }

    def artifacts(self, run_id: str) -> set[str]:
        """Paths of all files of a run, without what tells the time."""
        folder = next(self.place.glob(f"mlruns/*/{run_id}/artifacts"))
        files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        return {file for file in files if not file.startswith("images/")}


def kills(times: int, place: Path, seed: int = 0, epochs: int = 10) -> dict[str, Any]:
    """Kill and compare.

    Returns:
        What was done and what was found, by name; `wrong` lists what should not be, and is empty.
    """
    alone = Training(place / "alone", epochs)
    began = time.monotonic()
    assert alone.start().wait() == 0, alone.said()
    span = time.monotonic() - began
    chance, done, trainings, wrong = random.Random(seed), 0, 0, []
    moments: Counter[str] = Counter()
    while done < times:
        trainings += 1
        training = Training(place / f"killed-{trainings}", epochs)
        while True:
            process = training.start("--resume=auto")
            before = training.said().count("epoch ")
            patience = chance.uniform(0, span) if chance.random() < 0.2 else None
            while patience is None and process.poll() is None:
                if "Run " in training.said()[-2000:] and training.said().count("epoch ") > before:
                    patience = chance.uniform(0, 1.5 * span / epochs)
                time.sleep(0.02)
            try:
                process.wait(patience if done < times else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                moments[_moment(training)] += 1
                continue
            if process.returncode:
                wrong.append(f"training {trainings} ended with {process.returncode}: {training.said()[-1500:]}")
            break
        if process.returncode == 0:
            wrong += [f"training {trainings}: {each}" for each in _compare(alone, training)]
    return {"kills": done, "trainings": trainings, "killed_while": dict(moments), "wrong": wrong}


def _moment(training: Training) -> str:
    """What the training was at, as far as it left a trace."""
    if list(training.place.glob("checkpoints/*/.*")):
        return "writing a checkpoint"
    if list(training.place.glob("cache/mlproject/*/.building*")):
        return "preparing pictures"
    if list(training.place.glob("unsent/*")):
        return "a run was open"
    return "before or between runs"


def _compare(alone: Training, killed: Training) -> list[str]:
    wrong = []
    subprocess.run(
        [sys.executable, str(PROJECT / "mlproject.py"), "doctor"], cwd=killed.place, env=killed.environment, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    states = Counter(run.info.status for run in killed.runs())
    if states["FINISHED"] != 1 or states["RUNNING"]:
        return [f"states of the runs are {dict(states)}"]
    (expected,) = (run.info.run_id for run in alone.runs())
    (found,) = (run.info.run_id for run in killed.runs() if run.info.status == "FINISHED")
    ours, theirs = killed.figures(found), alone.figures(expected)
    if ours != theirs:
        differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        wrong.append(f"figures differ: {differ[:5]}: {ours.get(differ[0])} instead of {theirs.get(differ[0])}")
    if killed.artifacts(found) != alone.artifacts(expected):
        wrong.append(f"artifacts differ: {sorted(killed.artifacts(found) ^ alone.artifacts(expected))[:5]}")
    for name in ("best.pt", "last.pt"):
        one = checkpoints.load(killed.place / "checkpoints" / found / name)
        other = checkpoints.load(alone.place / "checkpoints" / expected / name)
        if one.epoch != other.epoch or any(
            not torch.equal(one.network[key], other.network[key]) for key in one.network
        ):
            wrong.append(f"{name} differs")
    left = [path for path in killed.place.glob("checkpoints/*/.*") if found in str(path)]
    left += list(killed.place.glob(f"unsent/{found}"))
    if left:
        wrong.append(f"left behind: {left}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        found = kills(asked.times, Path(place), asked.seed)
    print(json.dumps(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
