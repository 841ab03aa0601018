"""What runs are called."""

from segmentation.config import TrainConfig


def run_name(config: TrainConfig) -> str:
    """Model, weights, data, learning rate and weight decay, so that runs can be told apart in a list."""
    weights = config.weights if len(config.weights) <= 24 else f"…{config.weights[-20:]}"
    return f"{config.model} · {weights} · {config.dataset} · lr {config.learning_rate:g} · wd {config.weight_decay:g}"
