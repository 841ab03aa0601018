"""The entry points: one module for each `mlflow run -e NAME`, with its fields (`Config`) and what it does (`run`)."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, cast

NAMES = tuple(sorted(each.name for each in pkgutil.iter_modules(__path__)))
"""Names of all entry points."""


class EntryPoint(Protocol):
    """A module of this package."""

    Config: type
    """Its fields, a dataclass; the first line of its docstring stands in the overview of commands."""
    run: Callable[[Any], None]
    """Runs it. Heavy imports happen in here, so that `--help` needs none."""


def entry_point(name: str) -> EntryPoint:
    """The module of an entry point, one of `NAMES`."""
    return cast(EntryPoint, importlib.import_module(f"{__name__}.{name}"))
