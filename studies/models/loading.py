"""Load a trained model by name: a checkpoint file, an MLflow run or a registered model. Nothing is unpickled."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from segmentation.models.model_code import local_code, read_code
from segmentation.models.state_dicts import read_safetensors
from segmentation.training import checkpoints
from studies.base.checksum import CHECKSUM, MODEL_CODE, WEIGHTS, checksum
from studies.base.errors import why_absent
from studies.models.stored import StoredModel, stored_model
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import quoted, runs_tagged


def load(name: str) -> StoredModel:
    """Load a checkpoint file, an MLflow run (its ID or `runs:/ID`) or a registered model (`models:/...`).

    Raises:
        InputError: there is no such model, this program did not make it, or a checkpoint holds code of unknown origin.
    """
    if Path(name).is_file():
        return _trusted(load_checkpoint(name))
    uri = mlflow_uri(name)
    if uri is None:
        raise InputError(
            f"{name!r} is not a file, an MLflow run (its ID or runs:/ID; 8 digits suffice) or a registered model "
            f"(models:/NAME/1 or models:/NAME@ALIAS)"
        )
    if not uri.startswith("models:/"):
        return _load_logged(uri)._replace(name=name)
    version = version_uri(uri)
    return _load_logged(version)._replace(name=version)


def load_checkpoint(file: str) -> StoredModel:
    """Load a checkpoint file.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this program.
    """
    checkpoint = checkpoints.load(Path(file))
    return stored_model(vars(checkpoint), checkpoint.network, None, file)._replace(name=file)


def _trusted(stored: StoredModel) -> StoredModel:
    """Return the model of a checkpoint file if its code may run; a file alone is no reason to run what it holds.

    The code of an own model runs if it is the code that a run in the tracking store was started with, or that of the
    local module. Models in the tracking store are trusted as such: whoever can write there can log a model with code.

    Raises:
        InputError: the code is neither.
    """
    code = stored.code
    if code is None or runs_tagged(MODEL_CODE, code.checksum):
        return stored
    with suppress(InputError):
        if code.is_same(local_code(code.function)):
            return stored
    raise InputError(
        f"{stored.name} holds code of its model ({code.described()}) that is neither that of a run in this tracking "
        f"store nor that of the module here, so it does not run. Name its run as runs:/ID; or read the code with "
        f"`torch.load(FILE)['code']['files']`, and save it here if you trust it"
    )


def mlflow_uri(name: str) -> str | None:
    """Return the URI of the model of a run or of a registered model; None if the name is neither."""
    if re.fullmatch("[0-9a-f]{32}", name):
        return f"runs:/{name}/model"
    if re.fullmatch("runs:/[0-9a-f]{32}", name):
        return f"{name}/model"
    return name if re.match("runs:/[0-9a-f]{32}/|models:/", name) else None


def version_uri(uri: str) -> str:
    """Return the URI of the version that an alias, or `latest`, points to now. Other URIs are returned unchanged.

    Raises:
        InputError: there is no such model or alias.
    """
    found = re.fullmatch("models:/([^/@]+)(?:@(.+)|/latest)", uri)
    if found is None:
        return uri
    name, alias = found.groups()
    client = mlflow.MlflowClient()
    try:
        if alias is not None:
            return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
        versions = client.search_model_versions(f"name={quoted(name)}")
    except MlflowException as error:
        raise InputError(f"{uri} cannot be loaded: {why_absent(error)}") from error
    if not versions:
        raise InputError(f"{uri} cannot be loaded: there is no version of a model called {name!r}")
    return f"models:/{name}/{max(int(each.version) for each in versions)}"


def logged_normalization(name: str) -> Any:
    """Return the normalization of a logged model from its metadata alone; None if the metadata cannot be read."""
    with suppress(Exception):  # loading the model reports the cause
        metadata = mlflow.models.get_model_info(str(mlflow_uri(name))).metadata or {}
        return metadata["config"]["normalization"]
    return None


def _load_logged(uri: str) -> StoredModel:
    """Download a logged model, and read its metadata and its safetensors file."""
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        raise InputError(f"{uri} cannot be loaded: {_why_missing(uri, error)}") from error
    try:
        model = mlflow.models.Model.load(str(folder))
        metadata = model.metadata
    except Exception as error:  # damaged YAML makes MLflow raise nearly any type
        raise InputError(f"{uri} cannot be loaded: its file MLmodel is missing or damaged") from error
    if not isinstance(metadata, dict) or "class_names" not in metadata:
        raise InputError(f"{uri} was not made by this program: its metadata holds no class names")
    run_id = metadata.get("trained_in_run") or model.run_id
    if not (folder / WEIGHTS).is_file():
        checkpoint = _checkpoint_of(str(run_id)) if run_id else None
        raise InputError(
            f"{uri} cannot be loaded: it has no file {WEIGHTS}, which earlier versions did not store. "
            f"Use the checkpoint of its run instead: {checkpoint or 'checkpoints/RUN_ID/best.pt'}"
        )
    tensors = read_safetensors(folder / WEIGHTS)
    if metadata.get(CHECKSUM) != checksum(folder / WEIGHTS):
        raise InputError(f"{uri} is damaged: its file {WEIGHTS} is not the one that was logged (SHA-256 differs)")
    code = None
    if metadata.get(MODEL_CODE) is not None:
        try:
            code = read_code(metadata[MODEL_CODE], folder / "code")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{uri} is damaged: {error}") from error
    stored = stored_model(metadata, tensors, run_id, uri, code)
    return stored._replace(model_id=_known_model_id(model.model_id))


def _why_missing(uri: str, error: Exception) -> str:
    """Return why a model could not be downloaded, and what to name instead."""
    if where := missing_files(uri):
        return where
    message = why_absent(error).rstrip(".")
    if not uri.startswith("runs:/"):
        return message
    run_id = uri.removeprefix("runs:/").partition("/")[0]
    if checkpoint := _checkpoint_of(run_id, without_model=True):
        return f"the run logged no model (log_model=false); use its checkpoint instead: {checkpoint}"
    if "Run with id=" in str(error):
        return message
    return f"{message}. Only runs of train and calibrate with log_model=true have a model"


def _checkpoint_of(run_id: str, without_model: bool = False) -> Path | None:
    """Return the path of the checkpoint with a run's model; None if the run or its `checkpoint_dir` is unknown.

    Args:
        run_id: the run.
        without_model: return None for runs that log their model.
    """
    try:
        params = mlflow.get_run(run_id).data.params
    except MlflowException:
        return None
    if without_model and params.get("log_model", "").lower() != "false":
        return None
    return Path(params.get("checkpoint_dir", "checkpoints")) / run_id / f"{params.get('keep', 'best')}.pt"


def _known_model_id(model_id: str | None) -> str | None:
    """Return the ID of a logged model if this tracking server knows it: copies keep the ID of another server."""
    if model_id is None:
        return None
    try:
        return str(mlflow.MlflowClient().get_logged_model(model_id).model_id)
    except MlflowException:
        return None
