"""Trained models that several test files use."""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from studies.config import TrainConfig
from studies.runs.training import run_training
from tests.conftest import write_own_data


class Trained(NamedTuple):
    """Two runs that differ only in the seed, with a third of the training images held out.

    The first is registered, the second logs no model, which saves seconds.
    """

    configs: tuple[TrainConfig, TrainConfig]
    run_ids: tuple[str, str]
    experiment: str

    @property
    def checkpoint(self) -> str:
        """Of the first; it loads faster than its model."""
        return str(Path(self.configs[0].checkpoint_dir) / self.run_ids[0] / "last.pt")


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory: pytest.TempPathFactory, store: str) -> Trained:
    folder = tmp_path_factory.mktemp("two-seeds")
    values: dict[str, Any] = {
        "dataset": "folder", "data_dir": str(write_own_data(folder, train=9, val=12)), "resize": 32, "crop": 32,
        "device": "cpu", "epochs": 4, "batch_size": 4, "learning_rate": 0.05, "model": "lraspp_mobilenet_v3_large",
        "batch_norm_momentum": 0.1, "calibration_fraction": 0.34, "examples": 2, "cache_dir": str(folder / "cache"),
        "checkpoint_dir": str(folder / "checkpoints"), "experiment": "two seeds", "keep": "last",
    }  # fmt: skip
    first = TrainConfig(**values, register_as="first-seed", alias="first")
    configs = first, TrainConfig(**values, seed=1, log_model=False)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        run_ids = tuple(run_training(config).run_id for config in configs)
    assert Path(values["data_dir"]).is_dir()
    return Trained(configs, (run_ids[0], run_ids[1]), "two seeds")
