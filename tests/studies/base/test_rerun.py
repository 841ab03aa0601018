import shlex
from dataclasses import asdict, fields
from itertools import pairwise

import pytest

import mlproject
from studies.base import rerun
from studies.base.rerun import command, here
from studies.config import CompareConfig, TrainConfig
from studies.entry_points import NAMES, entry_point
from tests.conftest import PROJECT


def arguments(text: str) -> list[str]:
    """Return a command's `-P name=value` as the arguments that MLflow passes on."""
    words = shlex.split(text)
    options = [word.partition("=") for before, word in pairwise(words) if before == "-P"]
    return [part for name, _, value in options for part in (f"--{name}", value)]


def test_a_command_holds_only_what_differs_from_the_defaults() -> None:
    config = TrainConfig(dataset="camvid", data_dir="my data", learning_rate=0.05, run_name="mine", resize=None)
    assert command("train", asdict(config)) == (
        "mlflow run . --env-manager local -e train -P dataset=camvid -P data_dir='my data' -P resize=None "
        "-P learning_rate=0.05"
    )
    with_recipe = TrainConfig(recipe="careful", freeze_backbone=0, weights="imagenet")
    assert command("train", asdict(with_recipe)).endswith(" -P weights=imagenet -P recipe=careful -P freeze_backbone=0")
    coco = asdict(TrainConfig(weights="coco", normalization="signed_unit"))
    assert command("train", coco).endswith(" -P normalization=signed_unit -P weights=coco")
    assert command("train", {}, always=["learning_rate"]) == "mlflow run . --env-manager local -e train"
    assert command("train", asdict(TrainConfig()), always=["learning_rate"]).endswith("-P learning_rate=0.01")


def test_the_command_gives_the_same_configuration_again() -> None:
    for kind, config in (
        ("train", TrainConfig(crop=None, resize=64, epochs=3, recipe="careful", patience=2, flip=0.5)),
        ("train", TrainConfig(recipe="careful", freeze_batch_norm=False, weights="coco", normalization="signed_unit")),
        ("compare", CompareConfig(run_ids="a,b", examples=0)),
    ):
        assert mlproject.parse(type(config), arguments(command(kind, asdict(config))), "test") == config


@pytest.mark.parametrize("name", [name for name in NAMES if name != "main"])
def test_every_entry_point_has_its_fields(name: str) -> None:
    """`main` is left out: it is a `train` with other defaults, and its runs are repeated by `train`."""
    assert rerun._fields(name) == fields(entry_point(name).Config)


def test_the_command_fits_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"resume": "a", "checkpoint_dir": "my checkpoints", "epochs": 50}
    elsewhere = (
        f"python {shlex.quote(str(PROJECT / 'mlproject.py'))} train --checkpoint_dir 'my checkpoints' --resume a"
    )
    assert sorted(shlex.split(here("train", values))) == sorted(shlex.split(elsewhere))
    assert here("sync").endswith("mlproject.py sync")
    monkeypatch.setattr("sys.argv", ["/usr/bin/mlproject", "train"])
    assert here("sync") == "mlproject sync"
    monkeypatch.chdir(PROJECT)
    assert here("train", values) == command("train", values)
