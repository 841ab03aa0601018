"""Send records that MLflow has not accepted yet."""

from pathlib import Path

from segmentation.system.runtime import importing
from studies.config import SyncConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    if config.run_id is None and not any(Path(config.records).glob("*/")):
        print(f"No unsent records in {config.records}.")
        return
    with importing():
        from studies.maintenance.sync import send_records
    send_records(config)
