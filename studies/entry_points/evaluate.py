"""Score a trained model on any split."""

from segmentation.system.runtime import importing
from studies.config import EvaluateConfig as Config

__all__ = ["Config", "run"]


def run(config: Config) -> None:
    """Run the entry point."""
    with importing():
        from studies.runs.evaluation import run_evaluation
    run_evaluation(config)
