"""Write a trained model as a file that other programs run."""

from segmentation.system.runtime import importing
from studies.config import ExportConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.export import run_export
    run_export(config)
