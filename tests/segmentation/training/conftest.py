from typing import Any

import pytest

from tests import tiny_network
from tests.conftest import write_own_data


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small model and 6 training images of 32 x 32 pixels, prepared once."""
    folder = tmp_path_factory.mktemp("settings")
    return {
        "dataset": "folder", "data_dir": str(write_own_data(folder)), "cache_dir": str(folder / "cache"), "resize": 32,
        "crop": 32, "device": "cpu", "model": tiny_network.LRASPP, "epochs": 2, "batch_size": 4,
        "learning_rate": 0.02,
    }  # fmt: skip
