"""Send records that MLflow has not accepted yet."""

from segmentation.system.runtime import importing
from studies.config import SyncConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.maintenance.sync import send_records
    send_records(config)
