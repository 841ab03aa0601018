"""Build the command that repeats a run, from the configuration that the run has logged."""

import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from segmentation.config import RECIPES, RGB, derived
from studies import config

RUN = "mlflow run . --env-manager local"
"""Start of every `mlflow run` command; without this manager MLflow looks for conda."""
NAMES = ("run_name", "experiment")
"""Fields that only say where a run is found."""


def command(kind: str, values: Mapping[str, Any], always: Collection[str] = ()) -> str:
    """Return the `mlflow run` command for a configuration. It holds the values that differ from the defaults.

    Args:
        kind: the entry point; a run's tag `kind` holds it.
        values: the configuration by field; a missing field has its default.
        always: fields to include even at their default.
    """
    return " ".join([f"{RUN} -e {kind}", *(f"-P {name}={text}" for name, text in _options(kind, values, always))])


def here(kind: str, values: Mapping[str, Any] | None = None) -> str:
    """Return the command for the current folder: `mlflow run` in the project's folder, `mlproject.py` elsewhere."""
    return for_this_folder(command(kind, values or {}))


def for_this_folder(text: str) -> str:
    """Return a command made by `command` as it works in the current folder."""
    if Path("MLproject").is_file():
        return text
    script = Path(__file__).resolve().parents[2] / "mlproject.py"
    program = "mlproject" if Path(sys.argv[0]).name == "mlproject" else f"python {shlex.quote(str(script))}"
    words = shlex.split(text.removeprefix(RUN))
    options = [word.partition("=") for before, word in pairwise(words) if before == "-P"]
    return " ".join([f"{program} {words[1]}", *(f"--{name} {shlex.quote(value)}" for name, _, value in options)])


def _options(kind: str, values: Mapping[str, Any], always: Collection[str]) -> list[tuple[str, str]]:
    """Return the fields to type, each with its value quoted for a shell."""
    defaults: dict[str, Any] = {}
    if values.get("recipe", "none") in RECIPES:
        defaults = derived(values.get("recipe", "none"), values.get("weights", "none"), values.get("channels", RGB))
    return [
        (field.name, shlex.quote(str(values[field.name])))
        for field in _fields(kind)
        if field.name in values
        and (field.name not in NAMES or kind == "report")
        and (
            field.name in always
            or (
                values[field.name] != defaults.get(field.name, field.default)
                # a study or a group of runs derives the fields that are not set anew for each run
                and (kind == "train" or values[field.name] != field.default)
            )
        )
    ]


def _fields(kind: str) -> tuple[Field[Any], ...]:
    """Return the fields of an entry point: those of `NAMEConfig` in `studies/config.py`; none for another name."""
    found = getattr(config, f"{kind.capitalize()}Config", None)
    return () if found is None else fields(found)
