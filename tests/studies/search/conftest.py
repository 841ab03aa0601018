"""A real PostgreSQL server on loopback, and the fields of a study with tiny trials."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_network
from tests.services.postgres import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server that accepts connections from this machine without a password."""
    with postgres_server() as server:
        yield server.address


def tiny(root: Path, **more: Any) -> dict[str, Any]:
    """Fields of a study whose trials take a second or two each."""
    return {
        "dataset": "folder", "data_dir": str(root), "resize": 32, "crop": 32, "model": tiny_network.NAME,
        "batch_norm_momentum": 0.1, "epochs": 4, "batch_size": 4, "device": "cpu", "examples": 0, "plot_every": 0,
        "log_model": False, "experiment": "studies",
    } | more  # fmt: skip
