"""Inspect a data set before training."""

from segmentation.system.runtime import importing
from studies.config import InspectConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.inspection import run_inspection
    run_inspection(config)
