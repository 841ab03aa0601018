"""All runs that fulfil a condition, however many: MLflow gives a thousand at a time."""

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Run


def every_run(experiments: Sequence[str], condition: str, order: str = "attributes.start_time ASC") -> list[Run]:
    """The runs of some experiments, given by their ids, in an order that MLflow knows, by default the oldest first."""
    client = MlflowClient()
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(list(experiments), condition, order_by=[order], page_token=token)
        found += page
        token = page.token
        if not token:
            return found
