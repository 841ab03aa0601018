"""Train several settings side by side and compare them."""

from segmentation.system.runtime import importing
from studies.config import ModelsConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    from studies.runs.data_check import check_data
    from studies.runs.variants import run_configs

    list(run_configs(config))
    check_data(config)
    with importing():
        from studies.runs.models import run_models
    run_models(config)
