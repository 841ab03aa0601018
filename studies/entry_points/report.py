"""Write experiments, runs or a study as one page."""

from segmentation.system.runtime import importing
from studies.config import ReportConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.report import run_report
    run_report(config)
