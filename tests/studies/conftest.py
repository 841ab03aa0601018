"""Trained models that several test files use."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from segmentation.plots import style
from segmentation.scoring import bootstrap
from studies.config import TrainConfig
from studies.runs.training import run_training
from tests import tiny_network
from tests.conftest import write_own_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def blank_plots() -> Iterator[None]:
    """Inside, the plots of runs are blank images, each in a colour of its own: drawing them takes half of a short run.

    `tests/segmentation/plots`, `tests/studies/search/plots` and the fixture `finished` of `tests/studies/runs` draw.
    """
    random = np.random.default_rng(0)

    def blank(figure: "Figure") -> np.ndarray:
        width, height = (figure.get_size_inches() * figure.dpi).astype(int)
        return np.broadcast_to(random.integers(0, 256, 3, np.uint8), (height, width, 3)).copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "pixels", blank)
        yield


@contextlib.contextmanager
def few_resamples() -> Iterator[None]:
    """Inside, intervals come from 1,000 resamples instead of 10,000, which take a third of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 1000)
        yield


@pytest.fixture(scope="package", autouse=True)
def undrawn() -> Iterator[None]:
    with blank_plots(), few_resamples():
        yield


@contextlib.contextmanager
def drawn_plots() -> Iterator[None]:
    """Inside, plots are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "pixels", DRAWN)
        yield


DRAWN = style.pixels


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
        "device": "cpu", "epochs": 4, "batch_size": 4, "learning_rate": 0.05, "model": tiny_network.LRASPP,
        "batch_norm_momentum": 0.1, "calibration_fraction": 0.34, "examples": 2, "cache_dir": str(folder / "cache"),
        "checkpoint_dir": str(folder / "checkpoints"), "experiment": "two seeds", "keep": "last",
    }  # fmt: skip
    first = TrainConfig(**values, register_as="first-seed", alias="first")
    configs = first, TrainConfig(**values, seed=1, log_model=False)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        blank_plots(),
        few_resamples(),
    ):
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        run_ids = tuple(run_training(config).run_id for config in configs)
    assert Path(values["data_dir"]).is_dir()
    return Trained(configs, (run_ids[0], run_ids[1]), "two seeds")
