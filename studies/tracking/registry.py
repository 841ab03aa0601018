"""The model registry: versions of registered models, and their aliases."""

from collections.abc import Mapping

import mlflow

MADE = "made"
"""Tag of a registered model's version: when the model was made, in ms of Unix time. It may be registered much later."""


ABOUT = "Segmentation models. Each version's description has its metrics, classes, input and an example request."
"""Description of a registered model that has none."""


def describe(
    client: mlflow.MlflowClient, run_id: str, name: str, model_id: str, description: str, tags: Mapping[str, str]
) -> None:
    """Set description and tags of the version of a registered model that a logged model was registered as."""
    for version in client.search_model_versions(f"run_id='{run_id}'"):
        if (version.name, version.model_id) == (name, model_id):
            client.update_model_version(name, version.version, description)
            for key, value in tags.items():
                client.set_model_version_tag(name, version.version, key, value)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, ABOUT)


def register(client: mlflow.MlflowClient, run_id: str, name: str, alias: str, model_id: str, made: int) -> None:
    """Register a model, and set the alias to it unless the alias points to a model that was made later."""
    # not by name: a quote in it would break the condition
    versions = client.search_model_versions(f"run_id='{run_id}'")
    version = next((each for each in versions if (each.name, each.model_id) == (name, model_id)), None)
    if version is None:
        version = mlflow.register_model(f"models:/{model_id}", name, tags={MADE: str(made)})
    current = client.get_registered_model(name).aliases.get(alias)
    if current is not None:
        newest = client.get_model_version(name, str(current))
        if made < int(newest.tags.get(MADE, newest.creation_timestamp)):
            return
    client.set_registered_model_alias(name, alias, str(version.version))
