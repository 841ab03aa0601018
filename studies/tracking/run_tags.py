"""Tags of a run: the code, the processes that work on it, and why it did not finish."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from segmentation.system.processes import me, parsed
from studies.tracking.run_journals import journal_of
from studies.tracking.store import check_store

PROCESS = "process"
"""Tag with the process that works on a run, or the last one that joined it."""
JOINED = f"{PROCESS}."
"""Prefix of the tags of a shared run: one for each process that works on it."""
VERSIONS_OF = ("torch", "torchvision", "mlflow", "numpy")


def describe_run(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Name and tag a run that this process has not opened."""
    with journal_of(run_id) as journal:
        journal.add("records", {"what": "tags", "values": {"mlflow.runName": name, **tags}})


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Tag a run that no process works on; do nothing if the tracking store cannot be reached."""
    with suppress(MlflowException, InputError):
        check_store()
        mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def code_tags() -> dict[str, str]:
    """Return the tags with the commit and the versions of the libraries."""
    return {"git_commit": _git_commit(), **{f"version.{package}": version(package) for package in VERSIONS_OF}}


def joined_tag() -> str:
    """Return the name of the tag by which this process marks a shared run that it works on."""
    return JOINED + hashlib.sha256(json.dumps(me()).encode()).hexdigest()[:12]


def process_of(run: Run) -> Mapping[str, Any]:
    """Return the last process that worked on a run, in the form of `processes.me`; empty if unknown."""
    return parsed(run.data.tags.get(PROCESS, ""))


def processes_of(run: Run) -> list[Mapping[str, Any]]:
    """Return the processes that work on a run: all that share it, or the last one."""
    sharing: list[Mapping[str, Any]] = [parsed(value) for key, value in run.data.tags.items() if key.startswith(JOINED)]
    return [process for process in sharing or [process_of(run)] if process]


def _git_commit() -> str:
    """Return the commit of this code, with `-dirty` if files differ from it; `unknown` outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],  # noqa: S607 - the git on PATH
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
