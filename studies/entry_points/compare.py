"""Compare trained models on the images that all were scored on."""

from segmentation.system.runtime import importing
from studies.config import CompareConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.comparison import run_comparison
    run_comparison(config)
