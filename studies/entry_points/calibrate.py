"""Calibrate a trained model on held-out images."""

from segmentation.system.runtime import importing
from studies.config import CalibrateConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.calibration import run_calibration
    run_calibration(config)
