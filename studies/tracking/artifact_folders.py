"""Find out whether the artifact folder of a run or a model exists where MLflow recorded it."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.exceptions import MlflowException


def missing_files(uri: str) -> str | None:
    """Return a message if the recorded artifact folder does not exist, for example because it was moved; else None.

    Args:
        uri: `runs:/ID` with or without a path, or `models:/...`.
    """
    try:
        folders = [folder for folder in map(_folder, _locations(uri)) if folder is not None]
    except MlflowException:
        return None
    if not folders or any(folder.is_dir() for folder in folders):
        return None
    missing = folders[0]
    while not missing.parent.is_dir():
        missing = missing.parent
    if len(folders) == 1 and missing.name == _experiment_id(uri):
        return None  # MLflow makes an experiment's folder for its first file, and this run may have logged none
    either = "Either the run logged no files, or it was moved or removed. " if missing.name == _run_id(uri) else ""
    return (
        f"its files should be in {folders[0]}, as MLflow recorded, but {missing} does not exist. {either}If that "
        f"folder was moved, move it back or put a link to it there; if it was removed, the files are lost"
    )


def _experiment_id(uri: str) -> str | None:
    """Return the experiment of a run; None for a model."""
    run_id = _run_id(uri)
    return str(mlflow.get_run(run_id).info.experiment_id) if run_id else None


def _run_id(uri: str) -> str | None:
    """Return the ID of a run; None for a model."""
    found = re.match("runs:/([0-9a-f]{32})", uri)
    return found[1] if found else None


def _locations(uri: str) -> list[str]:
    """Return the addresses where the files may be."""
    client = mlflow.MlflowClient()
    if run_id := _run_id(uri):
        run = client.get_run(run_id)
        ids = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
        return [str(run.info.artifact_uri), *(str(client.get_logged_model(each).artifact_location) for each in ids)]
    if found := re.fullmatch(r"models:/(m-[0-9a-f]+)", uri):
        return [str(client.get_logged_model(found[1]).artifact_location)]
    if found := re.fullmatch(r"models:/([^/@]+)/(\d+)", uri):
        return [str(client.get_model_version_download_uri(*found.groups()))]
    return []


def _folder(location: str) -> Path | None:
    """Return the folder on this machine; None for a remote address."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(location) if Path(location).is_absolute() else None
