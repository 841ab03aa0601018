"""Search hyperparameters with Optuna."""

from segmentation.system.runtime import importing
from studies.config import TuneConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    from studies.runs.data_check import check_data

    check_data(config)
    with importing():
        from studies.search.study import run_study
    run_study(config)
