"""A real training run in its own folder, and the comparison of two runs that should be equal."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import torch

from segmentation.training import checkpoints
from tests import tiny_network
from tests.conftest import PROJECT, write_own_data

SMALL = {
    "dataset": "folder", "model": tiny_network.NAME, "resize": 32, "crop": 32, "batch_size": 6,
    "examples": 0, "plot_every": 3, "momentum": 0.9, "flip": 0.5, "learning_rate": 0.02,
}  # fmt: skip
IMAGES = 24, 4
"""Number of training and of validation images."""
MEASURED_TIMES = ("epoch_seconds", "images_per_second", "system/")
"""Prefixes of metrics that differ between runs."""


def words(**fields: Any) -> list[str]:
    """Return the arguments of `train`; fields that are not given have the values of `SMALL`."""
    return ["train", *(f"--{name}={value}" for name, value in (SMALL | fields).items())]


class Training:
    """A `train` command in its own folder."""

    def __init__(self, place: Path, epochs: int, uri: str | None = None, **more: Any) -> None:
        place.mkdir(parents=True)
        self.fields = {"data_dir": write_own_data(place, *IMAGES), "epochs": epochs} | more
        self.place, self.uri = place, uri or f"sqlite:///{place / 'mlflow.db'}"
        if uri is None and "EMPTY_STORE" in os.environ:  # pytest's; making the tables takes seconds
            shutil.copy(os.environ["EMPTY_STORE"], place / "mlflow.db")
        self.environment = os.environ | {
            "MLFLOW_TRACKING_URI": self.uri, "XDG_CACHE_HOME": str(place / "cache"), "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """Start or resume the run."""
        command = [sys.executable, str(PROJECT / "mlproject.py"), *words(**self.fields)]
        with (self.place / "said").open("a") as said:
            return subprocess.Popen([*command, *more], cwd=self.place, env=self.environment, stdout=said, stderr=said)

    def start_command(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start another command of the project in the same folder."""
        command = [sys.executable, str(PROJECT / "mlproject.py"), *arguments]
        with (self.place / "said").open("a") as said:
            return subprocess.Popen(
                command, cwd=self.place, env=self.environment, stdout=said, stderr=said, text=True
            )  # fmt: skip

    def has_an_epoch(self) -> bool:
        """Return whether an epoch is finished, so that its checkpoint exists."""
        return any(self.place.glob("checkpoints/*/last.pt"))

    def said(self) -> str:
        """Return everything that was printed so far."""
        return (self.place / "said").read_text()

    def epochs_done(self) -> int:
        """Return the number of finished epochs; a repeated epoch counts twice."""
        return len(re.findall(r"^epoch \d+/", self.said(), re.MULTILINE))

    def runs(self) -> list[Any]:
        """Return the runs of this folder's store."""
        client = mlflow.MlflowClient(self.uri)
        return client.search_runs([each.experiment_id for each in client.search_experiments()])

    def metrics(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Return step and value of every metric of a run, except measured times."""
        client = mlflow.MlflowClient(self.uri)
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith(MEASURED_TIMES)]
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)] for name in names
        }

    def run_id(self) -> str:
        """Return the ID of the last run."""
        return re.findall("^Run ([0-9a-f]{32}):", self.said(), re.MULTILINE)[-1]

    def artifacts(self, run_id: str) -> set[str]:
        """Return the paths of all files of a run, except images of epochs, whose names contain the time."""
        client, files, folders = mlflow.MlflowClient(self.uri), set(), [""]
        while folders:
            for each in client.list_artifacts(run_id, folders.pop() or None):
                (folders.append if each.is_dir else files.add)(each.path)
        return {file for file in files if not file.startswith("images/")}


def differences(alone: Training, other: Training) -> list[str]:
    """What is not as it should be after a training that something happened to, beside one that was left alone."""
    wrong = []
    expected, found = alone.run_id(), other.run_id()
    run = mlflow.MlflowClient(other.uri).get_run(found)
    if run.info.status != "FINISHED":
        wrong.append(f"the run is {run.info.status}")
    if len(run.outputs.model_outputs) != other.fields.get("log_model", True):
        wrong.append(f"the run has {len(run.outputs.model_outputs)} models")
    ours, theirs = other.metrics(found), alone.metrics(expected)
    if ours != theirs:
        differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        wrong.append(f"metrics differ: {differ[:5]}: {ours.get(differ[0])} instead of {theirs.get(differ[0])}")
    if other.artifacts(found) != alone.artifacts(expected):
        wrong.append(f"artifacts differ: {sorted(other.artifacts(found) ^ alone.artifacts(expected))[:5]}")
    runs = (other, found), (alone, expected)
    files = [{file.name for file in each.place.glob(f"checkpoints/{run}/*.pt")} for each, run in runs]
    if files[0] != files[1]:
        wrong.append(f"checkpoints differ: {files}")
    for name in files[0] & files[1]:
        one = checkpoints.load(other.place / "checkpoints" / found / name)
        two = checkpoints.load(alone.place / "checkpoints" / expected / name)
        if one.epoch != two.epoch or any(not torch.equal(one.network[key], two.network[key]) for key in one.network):
            wrong.append(f"{name} differs")
    left = [*other.place.glob(f"checkpoints/{found}/.*"), *other.place.glob(f"unsent/{found}")]
    return [*wrong, f"left behind: {left}"] if left else wrong
