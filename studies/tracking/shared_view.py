"""A view of an experiment in MLflow's UI: the list of runs with columns for the metrics of the models.

The UI reads a shared view from a tag of the experiment, as JSON with the names of its columns, if the address names the
tag. It writes such tags itself when a user shares a view.
"""

import json
from contextlib import suppress

import mlflow
from mlflow.exceptions import MlflowException

from segmentation.metrics import HEADLINE, METRICS, of_model

KEY = "results"
TAG = f"mlflow.sharedViewState.{KEY}"
WIDTH = 170
"""Width of a column in pixels: enough for its name."""
LABELS = ", ".join(METRICS[name].label for name in HEADLINE)


def share_view(experiment_id: str) -> None:
    """Add the view to an experiment, unless it has it. A server that refuses tags of experiments has no view."""
    columns = [f"metrics.`{of_model(name)}`" for name in HEADLINE]
    value = json.dumps({
        "selectedColumns": ["attributes.`Created`", *columns], "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, WIDTH),
    })  # fmt: skip
    client = mlflow.MlflowClient()
    with suppress(MlflowException):
        if client.get_experiment(experiment_id).tags.get(TAG) != value:
            client.set_experiment_tag(experiment_id, TAG, value)


def view_address(experiment_id: str) -> str:
    """Return the address of the view, after that of the server; empty if the experiment has none.

    Raises:
        MlflowException: the server does not answer.
    """
    if TAG not in mlflow.MlflowClient().get_experiment(experiment_id).tags:
        return ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
