"""A small data set, models on it, and two ranks that run functions of the tests."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from segmentation.data import load_splits
from segmentation.models.segmenter import Segmenter, build
from segmentation.training.loop import Data
from studies.config import TrainConfig
from tests import tiny_network
from tests.conftest import write_own_data

TIMED = ("epoch_seconds", "images_per_second")
"""Metrics that differ between equal runs."""


def two_rank_values(folder: Path) -> dict[str, Any]:
    """Batches of 4 and 5 of 9 images, so that the shards of two ranks differ in size; 5 images to score."""
    return {
        "dataset": "folder", "data_dir": str(write_own_data(folder, train=9, val=5)), "resize": 32, "crop": 32,
        "device": "cpu", "model": tiny_network.LRASPP, "epochs": 2, "batch_size": 4, "learning_rate": 0.02,
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip


def prepared(config: TrainConfig) -> tuple[Segmenter, Data]:
    """A model with random weights from the seed, and the splits."""
    data = Data(*load_splits(config))
    torch.manual_seed(config.seed)
    return build(config, len(data.train.labels)), data


def hold_batch_norm(model: Segmenter) -> Segmenter:
    """Keep batch norm in evaluation mode; it is what makes small forward passes differ from large ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
            module.train = lambda mode=True, module=module: module
            module.training = False
    return model
