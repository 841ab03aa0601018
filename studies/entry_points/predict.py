"""Predict unlabelled images."""

from segmentation.system.runtime import importing
from studies.config import PredictConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.prediction import run_prediction
    run_prediction(config)
