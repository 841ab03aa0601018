"""Names of runs."""

import re
from pathlib import Path

from studies.config import TrainConfig


def run_name(config: TrainConfig) -> str:
    """Return model, weights, data, learning rate, weight decay and recipe, which distinguish runs in a list."""
    parts = [
        config.model, _short(config.weights), config.dataset, f"lr {config.learning_rate:g}",
        f"wd {config.weight_decay:g}", *([config.recipe] if config.recipe != "none" else []),
    ]  # fmt: skip
    return " · ".join(parts)


def model_name(config: TrainConfig, calibration: dict[str, str] | None) -> str:
    """Return the name of the run that trained a model, and the method if the model is calibrated."""
    return f"{run_name(config)} · calibrated by {calibration['method']}" if calibration else run_name(config)


def _short(weights: str) -> str:
    """Return starting weights in short: the first digits of a run's ID, or a file's name without its folder."""
    run_id = re.search("[0-9a-f]{32}", weights)
    if run_id is not None:
        return f"from {run_id[0][:8]}"
    if weights.startswith("models:/"):
        return f"from {weights.removeprefix('models:/')}"
    return f"from {Path(weights).name}" if Path(weights).name != weights or Path(weights).suffix else weights
