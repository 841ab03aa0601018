"""Close the runs of killed processes, and find damaged files and unsent records."""

from segmentation.system.runtime import importing
from studies.config import DoctorConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.maintenance.doctor import examine
    examine(config)
