"""The model registry: versions of registered models, and their aliases."""

from collections.abc import Mapping

import mlflow
from mlflow.entities.model_registry import ModelVersion

MADE = "made"
"""Tag of a registered model's version: when the model was made, in ms of Unix time. It may be registered much later."""


ABOUT = "Segmentation models. Each version's description has its metrics, classes, input and an example request."
"""Description of a registered model that has none."""


def describe(
    client: mlflow.MlflowClient, run_id: str, name: str, model_id: str, description: str, tags: Mapping[str, str]
) -> None:
    """Set description and tags of the version of a registered model that a logged model was registered as."""
    version = _version_of(client, run_id, name, model_id)
    if version is not None:
        client.update_model_version(name, version.version, description)
        for key, value in tags.items():
            client.set_model_version_tag(name, version.version, key, value)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, ABOUT)


def register(client: mlflow.MlflowClient, run_id: str, name: str, alias: str, model_id: str, made: int) -> None:
    """Register a model, and set the alias to it unless the alias points to a model that was made later."""
    version = _version_of(client, run_id, name, model_id)
    if version is None:
        version = mlflow.register_model(f"models:/{model_id}", name, tags={MADE: str(made)})
    current = client.get_registered_model(name).aliases.get(alias)
    if current is not None:
        newest = client.get_model_version(name, str(current))
        if made < int(newest.tags.get(MADE, newest.creation_timestamp)):
            return
    client.set_registered_model_alias(name, alias, str(version.version))


def _version_of(client: mlflow.MlflowClient, run_id: str, name: str, model_id: str) -> ModelVersion | None:
    """Return the version that a logged model of a run was registered as; None if it is not registered by this name."""
    # by the run: a quote in a name would break the condition. By the source: MLflow 3.17 leaves `model_id` empty.
    versions = client.search_model_versions(f"run_id='{run_id}'")
    return next((each for each in versions if (each.name, each.source) == (name, f"models:/{model_id}")), None)
