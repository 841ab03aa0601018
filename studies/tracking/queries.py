"""All runs that fulfil a condition, however many: MLflow gives a thousand at a time."""

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Run

from segmentation.errors import InputError


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


def quoted(value: str) -> str:
    """A text as it stands in a condition.

    Raises:
        InputError: it holds both kinds of quotes, for which MLflow's conditions have no form.
    """
    for quote in "'\"":
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise InputError(f"{value!r} cannot be searched for in MLflow, since it holds both ' and \"")
