"""Labels of compared runs are the parameters that differ."""

from dataclasses import asdict
from typing import Any, cast

import pytest

from studies.config import TrainConfig
from studies.scores.labels import differing_parameters, labels_of
from studies.scores.stored import StoredScores


def stored(calibration: dict[str, str] | None = None, epoch: int = 3, run_id: str = "0" * 32, **values: Any) -> Any:
    """Scores of a run that has nothing but its origin."""
    scores = cast(Any, object.__new__(StoredScores))
    scores.run_id, scores.name = run_id, "fcn_resnet50 · none · folder · lr 0.01 · wd 0"
    config = asdict(TrainConfig(dataset="folder", data_dir="/data", **values))
    scores.origin = {"config": config, "epoch": epoch, "trained_in_run": run_id, "calibration": calibration}
    return scores


def test_runs_are_labelled_by_what_differs() -> None:
    runs = [stored(epochs=30, flip=0.5, monitor="val/loss"), stored(epochs=12, flip=0.0, monitor="val/mean_iou")]
    assert labels_of(runs) == ["flip 0.5 · epochs 30 · monitor val/loss", "flip 0 · epochs 12 · monitor val/mean_iou"]
    assert differing_parameters(runs) == {
        "flip": [0.5, 0.0], "epochs": [30, 12], "monitor": ["val/loss", "val/mean_iou"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({"seed": 0}, {"seed": 1}, ["seed 0", "seed 1"]),
        ({"learning_rate": 0.1}, {"weight_decay": 0.5, "learning_rate": 0.02}, ["lr 0.1 · wd 0", "lr 0.02 · wd 0.5"]),
        ({"model": "fcn_resnet50"}, {"model": "fcn_resnet101"}, ["fcn_resnet50", "fcn_resnet101"]),
        ({"weights": f"runs:/{'a' * 32}"}, {}, ["weights from aaaaaaaa", "weights none"]),
        ({"run_name": "mine", "flip": 0.5}, {}, ["mine", "flip 0"]),
        ({"run_name": "x · seed 0", "seed": 0}, {"run_name": "x · seed 1", "seed": 1}, ["seed 0", "seed 1"]),
        ({}, {"calibration": {"method": "vector", "fingerprint": "f"}}, ["not calibrated", "calibrated by vector"]),
    ],
)
def test_one_difference_at_a_time(first: dict[str, Any], second: dict[str, Any], labels: list[str]) -> None:
    assert labels_of([stored(**first), stored(**second)]) == labels


def test_equal_parameters_are_distinguished_by_epoch_or_id() -> None:
    same = stored().name
    assert labels_of([stored(epoch=3), stored(epoch=4)]) == [f"{same} · epoch 3", f"{same} · epoch 4"]
    assert labels_of([stored(), stored(run_id="1" * 32)]) == [f"{same} · 00000000", f"{same} · 11111111"]


def test_many_differences_are_cut_but_never_the_one_that_distinguishes() -> None:
    common: dict[str, Any] = {
        "learning_rate": 0.2, "weight_decay": 0.1, "flip": 0.5, "batch_size": 8, "epochs": 9, "momentum": 0.5,
        "resize": 96, "crop": 96,
    }  # fmt: skip
    labels = labels_of([stored(**common, seed=0), stored(**common, seed=1), stored()])
    assert len(set(labels)) == 3
    assert "seed 1" in labels[1]
    assert len(labels[2].split(" · ")) < 8
