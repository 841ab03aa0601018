"""Names of runs."""

from dataclasses import replace
from typing import Any

import pytest

from studies.config import QuickStartConfig, TrainConfig
from studies.runs.names import data_name, model_name, run_name

RUN = "78fa4e4c302d4cf9a663e8d19e6be323"
MODEL: Any = "lraspp_mobilenet_v3_large"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("none", ""),
        ("coco", " · coco"),
        (RUN, " · from 78fa4e4c"),
        (f"runs:/{RUN}", " · from 78fa4e4c"),
        (f"checkpoints/{RUN}/best.pt", " · from 78fa4e4c"),
        ("models:/streets/1", " · from streets/1"),
        ("models:/streets@newest", " · from streets@newest"),
        ("/a/long/way/to/weights.pt", " · from weights.pt"),
        ("weights.pt", " · from weights.pt"),
    ],
)
def test_a_name_shows_the_starting_weights(weights: str, expected: str) -> None:
    config = TrainConfig(weights=weights, dataset="camvid", learning_rate=0.00001, weight_decay=0.05)
    assert run_name(config) == f"lr 1e-05 · wd 0.05 · fcn_resnet50{expected} · camvid"
    assert run_name(replace(config, normalization="imagenet")).count("normalization") == (weights == "none")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "lr 0.01 · wd 0"),
        ({"seed": 1, "batch_size": 8, "epochs": 30}, "lr 0.01 · wd 0 · seed 1 · batch 8 · 30 epochs"),
        ({"flip": 0.5, "optimizer": "adamw", "patience": 3}, "lr 0.01 · wd 0 · adamw · flip 0.5 · patience 3"),
        ({"crop": None, "resize": 64}, "lr 0.01 · wd 0 · resize 64 · crop none"),
        ({"recipe": "careful"}, "lr 0.01 · wd 0 · careful"),
        ({"epochs": 1}, "lr 0.01 · wd 0 · 1 epoch"),
        ({"recipe": "careful", "freeze_backbone": 1}, "lr 0.01 · wd 0 · careful · backbone frozen 1 epoch"),
        ({"device": "cpu", "plot_every": 3, "checkpoint_dir": "elsewhere", "log_model": False}, "lr 0.01 · wd 0"),
    ],
)  # fmt: skip
def test_a_name_begins_with_what_differs_from_the_defaults(values: dict[str, Any], expected: str) -> None:
    name = run_name(TrainConfig(dataset="folder", data_dir="/my/animals", model=MODEL, **values))
    assert name == f"{expected} · lraspp_mobilenet_v3_large · animals"


def test_a_name_begins_with_the_fields_that_differ_within_a_group() -> None:
    name = run_name(TrainConfig(), always=("seed", "flip", "weights", "model"))
    assert name == "seed 0 · flip 0 · fcn_resnet50 · weights none · lr 0.01 · wd 0 · voc2007"


def test_defaults_are_those_of_the_command() -> None:
    assert run_name(QuickStartConfig()) == "lr 0.1 · wd 0 · lraspp_mobilenet_v3_large · shapes"


def test_a_calibrated_model_is_named_after_its_method() -> None:
    config = TrainConfig(dataset="camvid")
    assert model_name(config, {"method": "vector"}) == f"calibrated by vector · {run_name(config)}"


@pytest.mark.parametrize(
    ("dataset", "folder", "expected"),
    [("camvid", "/data/CamVid", "camvid"), ("folder", "../data/animals/", "animals"), ("folder", "/", "folder")],
)
def test_own_data_are_named_after_their_folder(dataset: str, folder: str, expected: str) -> None:
    assert data_name(dataset, folder) == expected
