"""Train a model as one MLflow run."""

from segmentation.system.runtime import importing
from studies.config import TrainConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    from studies.runs.data_check import check_data

    check_data(config)
    with importing():
        from studies.runs.training import run_training
    run_training(config)
