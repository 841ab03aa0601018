"""One set of servers for all tests here, since they take long to start."""

from collections.abc import Iterator

import pytest

from tests.services import stack as services
from tests.services.stack import Stack


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with services.stack() as started:
        yield started


@pytest.fixture
def as_admin(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded goes to the server, in the name of its administrator."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", stack.variables["MLFLOW_ADMIN_PASSWORD"])
