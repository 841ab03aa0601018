"""Train a small model on generated data: the quick start."""

from segmentation.system.runtime import importing
from studies.config import QuickStartConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    from studies.runs.data_check import check_data

    check_data(config)
    with importing():
        from studies.runs.training import run_training
    run_training(config)
