"""Held by every test of a picture: pyplot's global state is not touched."""

from collections.abc import Iterator

import pytest
from matplotlib import pyplot


@pytest.fixture(autouse=True)
def pyplot_is_untouched() -> Iterator[None]:
    yield
    assert not pyplot.get_fignums()
