"""The command that makes a run again, from the configuration it has stored."""

import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from segmentation.config import RECIPES, derived
from studies.config import (
    CalibrateConfig,
    CompareConfig,
    EvaluateConfig,
    ModelsConfig,
    PredictConfig,
    ReportConfig,
    SyncConfig,
    TrainConfig,
    TuneConfig,
)

CONFIGS: Mapping[str, type] = {
    "train": TrainConfig, "evaluate": EvaluateConfig, "compare": CompareConfig, "calibrate": CalibrateConfig,
    "predict": PredictConfig, "models": ModelsConfig, "tune": TuneConfig, "report": ReportConfig,
    "sync": SyncConfig,
}  # fmt: skip
"""What configures each entry point that is printed for the user to type; a run's tag `kind` is the one that made it."""
RUN = "mlflow run . --env-manager local"
"""What every command begins with; without the manager, MLflow looks for conda."""
NAMES = ("run_name", "experiment")
"""Fields that say only where a run is found."""


def command(kind: str, values: Mapping[str, Any], always: Collection[str] = ()) -> str:
    """What to type for a run with these values: those that are not the entry point's defaults, and `always` some.

    Args:
        kind: the entry point.
        values: the configuration by field; a field that is missing has its default.
        always: fields to give in any case.
    """
    return " ".join([f"{RUN} -e {kind}", *(f"-P {name}={text}" for name, text in _given(kind, values, always))])


def here(kind: str, values: Mapping[str, Any] | None = None) -> str:
    """What to type in this folder: by `mlflow run` if it is the project's own, by the project's command line if not."""
    values = values or {}
    if Path("MLproject").is_file():
        return command(kind, values)
    door = Path(__file__).resolve().parents[2] / "mlproject.py"
    typed = "mlproject" if Path(sys.argv[0]).name == "mlproject" else f"python {shlex.quote(str(door))}"
    return " ".join([f"{typed} {kind}", *(f"--{name} {text}" for name, text in _given(kind, values, ()))])


def _given(kind: str, values: Mapping[str, Any], always: Collection[str]) -> list[tuple[str, str]]:
    """The fields to type, each with its value as a shell takes it."""
    follows = {}
    if kind == "train" and values.get("recipe", "none") in RECIPES:
        follows = derived(values.get("recipe", "none"), values.get("weights", "none"))
    return [
        (field.name, shlex.quote(str(values[field.name])))
        for field in (fields(CONFIGS[kind]) if kind in CONFIGS else ())
        if field.name in values
        and (field.name not in NAMES or kind == "report")
        and (field.name in always or values[field.name] != follows.get(field.name, field.default))
    ]
