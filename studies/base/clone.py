"""Detect the temporary project copy that `mlflow run` makes of a git address or a zip file.

MLflow unpacks or clones the project into a new folder below the system's temporary folder and runs the command there.
Files written into that folder are lost after the run.
"""

import os
import shlex
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil

OUTPUT_FIELDS = ("checkpoint_dir", "records", "output", "storage")
"""Fields that name files or folders that are needed after the run."""


def warning(config: Any) -> str | None:
    """Return a warning if the command would write into a temporary copy, with the fields to set; otherwise None."""
    here = Path.cwd()
    if "MLFLOW_RUN_ID" not in os.environ or not is_copy(here):
        return None
    paths = {
        field.name: path
        for field in fields(config)
        if field.name in OUTPUT_FIELDS and (path := absolute_path(getattr(config, field.name), _caller(here)))
    }
    if not paths:
        return None
    options = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in paths.items())
    return (
        f"Warning: {here} is a temporary copy of the project that `mlflow run` made for this run. Files written there "
        f"({', '.join(paths)}) are lost afterwards, and no run can resume from them. Set absolute paths:\n  {options}"
    )


def is_copy(folder: Path) -> bool:
    """Return whether a folder lies in one made by Python's `mkdtemp`, as MLflow's copies do."""
    temporary = Path(tempfile.gettempdir()).resolve()
    folder = folder.resolve()
    if not folder.is_relative_to(temporary) or folder == temporary:
        return False
    return folder.relative_to(temporary).parts[0].startswith(tempfile.gettempprefix())


def absolute_path(value: str | None, folder: Path) -> str | None:
    """Return a relative path, or a sqlite address with one, as an absolute one below `folder`; otherwise None."""
    if value is None:
        return None
    scheme = "sqlite:///" if value.startswith("sqlite:///") else ""
    path = value.removeprefix(scheme)
    if "://" in path or Path(path).is_absolute():
        return None
    return f"{scheme}{folder / path}"


def _caller(here: Path) -> Path:
    """Return the folder where `mlflow run` was called: that of the nearest parent process outside `here`."""
    for process in psutil.Process().parents():
        try:
            folder = Path(process.cwd())
        except (psutil.Error, OSError):
            continue
        if folder != here:
            return folder
    return Path.home()
