"""Read artifacts of runs without asking the tracking server where each of them is."""

import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from segmentation.errors import InputError
from studies.tracking.artifact_folders import missing_files

READ = (".png", ".json", ".csv")
"""Extensions of the files that are read."""


def read_files(run: Run, folders: Collection[str], wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return artifacts of a run by path: `config.json`, and those in some folders whose path is wanted.

    Args:
        run: the run.
        folders: artifact folders to look into.
        wanted: whether to read the file with this path; asked for those with an extension of `READ`.

    Raises:
        InputError: the run's artifact folder does not exist any more.
    """
    repository = get_artifact_repository(run.info.artifact_uri)
    paths = list(_paths(repository, folders))
    if not paths and run.info.status == "FINISHED" and (where := missing_files(f"runs:/{run.info.run_id}")):
        raise InputError(f"run {run.info.run_id} ({run.info.run_name}): {where}")
    chosen = [path for path in paths if path == "config.json" or (path.endswith(READ) and wanted(path))]
    if isinstance(repository, LocalArtifactRepository):  # its files are read where they are
        return {path: Path(repository.download_artifacts(path)).read_bytes() for path in chosen}
    with tempfile.TemporaryDirectory() as folder:
        return {path: Path(repository.download_artifacts(path, folder)).read_bytes() for path in chosen}


def _paths(repository: ArtifactRepository, folders: Collection[str]) -> Iterator[str]:
    """Yield the paths of the files at the top level and in some folders."""
    for file in repository.list_artifacts():
        if not file.is_dir:
            yield file.path
        elif file.path in folders:
            yield from (inner.path for inner in repository.list_artifacts(file.path) if not inner.is_dir)
