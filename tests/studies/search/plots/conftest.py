"""The plots of these tests are drawn."""

from collections.abc import Iterator

import pytest

from tests.studies.conftest import drawn_plots


@pytest.fixture(scope="package", autouse=True)
def drawn() -> Iterator[None]:
    with drawn_plots():
        yield
