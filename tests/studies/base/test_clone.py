"""A copy that `mlflow run` fetches for one run is known, and the fields that must not stay in it are named."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from studies.base import clone
from studies.config import PredictConfig, TrainConfig
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


def test_only_a_folder_that_mkdtemp_made_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Path(tempfile.mkdtemp())
    (made / "subdirectory").mkdir()
    assert clone.is_copy(made)
    assert clone.is_copy(made / "subdirectory")
    assert not clone.is_copy(tmp_path)
    assert not clone.is_copy(tmp_path / "project")
    assert not clone.is_copy(PROJECT)


@pytest.mark.parametrize(
    ("value", "absolute"),
    [
        ("checkpoints", "/home/me/checkpoints"),
        ("../kept", "/home/me/../kept"),
        ("/kept", None),
        (None, None),
        ("studies.journal", "/home/me/studies.journal"),
        ("sqlite:///s.db", "sqlite:////home/me/s.db"),
        ("sqlite:////kept/s.db", None),
        ("postgresql://host/name", None),
    ],
)
def test_a_relative_path_becomes_one_that_stays(value: str | None, absolute: str | None) -> None:
    assert clone.absolute_path(value, Path("/home/me")) == absolute


def test_the_warning_names_the_fields_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Path(tempfile.mkdtemp())
    monkeypatch.chdir(made)
    assert clone.warning(TrainConfig()) is None, "not started by mlflow run"
    monkeypatch.setenv("MLFLOW_RUN_ID", 32 * "a")
    message = str(clone.warning(TrainConfig()))
    assert str(made) in message
    assert "-P checkpoint_dir=/" in message
    predict = PredictConfig(model_uri="m", images="i", output="/kept/masks", records="/kept/unsent")
    assert clone.warning(predict) is None
    monkeypatch.chdir(tmp_path)
    assert clone.warning(TrainConfig()) is None


def test_mlflow_run_of_a_project_that_is_fetched(tmp_path: Path) -> None:
    """From a zip file, which MLflow unpacks as it clones a git address: into a folder of its own."""
    with zipfile.ZipFile(tmp_path / "project.zip", "w") as archive:
        for name in ("MLproject", "mlproject.py", "conda.yaml"):
            archive.write(PROJECT / name, name)
        for folder in ("segmentation", "studies"):
            for file in (PROJECT / folder).rglob("*.py"):
                archive.write(file, str(file.relative_to(PROJECT)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", "run", "project.zip", "--env-manager", "local", "-e", "status"]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, cwd=tmp_path, capture_output=True, text=True)
    message = " ".join(done.stderr.split())
    assert f"-P storage={tmp_path / 'studies.journal'}" in message, done.stderr
