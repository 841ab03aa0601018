"""The command that makes a run again, from the configuration it has stored."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from segmentation.config import (
    CalibrateConfig,
    CompareConfig,
    EvaluateConfig,
    ModelsConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    TuneConfig,
)

CONFIGS: Mapping[str, type] = {
    "train": TrainConfig, "evaluate": EvaluateConfig, "compare": CompareConfig, "calibrate": CalibrateConfig,
    "predict": PredictConfig, "models": ModelsConfig, "tune": TuneConfig, "report": ReportConfig,
}  # fmt: skip
"""What configures a run of each kind; a run's tag `kind` is the entry point that made it."""
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
    given = [
        f"-P {field.name}={shlex.quote(str(values[field.name]))}"
        for field in fields(CONFIGS[kind])
        if field.name in values
        and (field.name not in NAMES or kind == "report")
        and (field.name in always or values[field.name] != field.default)
    ]
    return " ".join([f"{RUN} -e {kind}", *given])
