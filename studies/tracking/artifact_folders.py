"""Whether the files of a run or a model are where MLflow recorded them: a moved `mlruns` folder is not."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.exceptions import MlflowException


def missing_files(uri: str) -> str | None:
    """What to report where the folder that MLflow recorded for something is not there; None where it is.

    Args:
        uri: `runs:/ID` with or without a path, or `models:/...`.
    """
    try:
        places = [place for place in map(_folder, _locations(uri)) if place is not None]
    except MlflowException:
        return None
    if not places or any(place.is_dir() for place in places):
        return None
    gone = places[0]
    while not gone.parent.is_dir():
        gone = gone.parent
    if len(places) == 1 and gone.name == _experiment_id(uri):
        return None  # MLflow makes an experiment's folder for its first file, and this run may never have had one
    return (
        f"its files should be in {places[0]}, as MLflow recorded, but {gone} is not there: if that folder was moved, "
        f"move it back, or leave a link to it there; if it was removed, they are lost"
    )


def _experiment_id(uri: str) -> str | None:
    """The experiment of a run; None for a model."""
    found = re.match("runs:/([0-9a-f]{32})", uri)
    return str(mlflow.get_run(found[1]).info.experiment_id) if found else None


def _locations(uri: str) -> list[str]:
    """The addresses at which the files may be."""
    client = mlflow.MlflowClient()
    if found := re.match("runs:/([0-9a-f]{32})", uri):
        run = client.get_run(found[1])
        ids = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
        return [str(run.info.artifact_uri), *(str(client.get_logged_model(each).artifact_location) for each in ids)]
    if found := re.fullmatch(r"models:/(m-[0-9a-f]+)", uri):
        return [str(client.get_logged_model(found[1]).artifact_location)]
    if found := re.fullmatch(r"models:/([^/@]+)/(\d+)", uri):
        return [str(client.get_model_version_download_uri(*found.groups()))]
    return []


def _folder(location: str) -> Path | None:
    """The folder on this machine; None for an address that is elsewhere."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(location) if Path(location).is_absolute() else None
