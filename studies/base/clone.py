"""A copy of the project that `mlflow run` fetched for one run from a git address or a zip file: what it writes is lost.

MLflow makes such a copy in a new folder below the system's temporary one, and runs the command there.
"""

import os
import shlex
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil

KEPT = ("checkpoint_dir", "records", "output", "storage")
"""Fields that say where something is kept that is needed after the run."""


def warning(config: Any) -> str | None:
    """What to tell before a command that would write into such a copy, with the fields to give; None elsewhere."""
    here = Path.cwd()
    if "MLFLOW_RUN_ID" not in os.environ or not is_copy(here):
        return None
    left = {
        field.name: absolute
        for field in fields(config)
        if field.name in KEPT and (absolute := elsewhere(getattr(config, field.name), _caller(here)))
    }
    if not left:
        return None
    given = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in left.items())
    return (
        f"Warning: `mlflow run` made the copy {here} of the project for this run alone. What is kept in it "
        f"({', '.join(left)}) will be out of reach: nothing resumes from there. Give absolute paths:\n  {given}"
    )


def is_copy(folder: Path) -> bool:
    """Whether a folder lies in one that Python's `mkdtemp` has made, as MLflow's copies do."""
    temporary = Path(tempfile.gettempdir()).resolve()
    folder = folder.resolve()
    if not folder.is_relative_to(temporary) or folder == temporary:
        return False
    return folder.relative_to(temporary).parts[0].startswith(tempfile.gettempprefix())


def elsewhere(value: str | None, folder: Path) -> str | None:
    """A relative path, or the address of a file by one, as an absolute one below a folder; None for all else."""
    if value is None:
        return None
    scheme = "sqlite:///" if value.startswith("sqlite:///") else ""
    path = value.removeprefix(scheme)
    if "://" in path or Path(path).is_absolute():
        return None
    return f"{scheme}{folder / path}"


def _caller(here: Path) -> Path:
    """Where `mlflow run` was called: the folder of the nearest process above this one that is not here."""
    for process in psutil.Process().parents():
        try:
            folder = Path(process.cwd())
        except (psutil.Error, OSError):
            continue
        if folder != here:
            return folder
    return Path.home()
