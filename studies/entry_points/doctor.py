"""Find and close what killed processes left behind."""

from segmentation.system.runtime import importing
from studies.config import DoctorConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.maintenance.doctor import examine
    examine(config)
