"""What runs are called."""

import re
from pathlib import Path

from studies.config import TrainConfig


def run_name(config: TrainConfig) -> str:
    """Model, weights, data, learning rate, weight decay and recipe, so that runs can be told apart in a list."""
    parts = [
        config.model, _origin(config.weights), config.dataset, f"lr {config.learning_rate:g}",
        f"wd {config.weight_decay:g}", *([config.recipe] if config.recipe != "none" else []),
    ]  # fmt: skip
    return " · ".join(parts)


def _origin(weights: str) -> str:
    """Starting weights in a few words: an earlier run by the first digits of its id, a file without its folder."""
    run_id = re.search("[0-9a-f]{32}", weights)
    if run_id is not None:
        return f"from {run_id[0][:8]}"
    if weights.startswith("models:/"):
        return f"from {weights.removeprefix('models:/')}"
    return f"from {Path(weights).name}" if Path(weights).name != weights or Path(weights).suffix else weights
