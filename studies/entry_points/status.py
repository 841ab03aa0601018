"""Print the progress of studies."""

from segmentation.system.runtime import importing
from studies.config import StatusConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.search.show_status import show_status
    show_status(config)
