"""Name and describe the run that `mlflow run` has opened for a command that records nothing in it.

`mlflow run` opens a run before our code starts, with a random name. Commands such as `status` and calls with a mistake
do not use it. Importing MLflow to rename it takes seconds, so a SQLite file is written directly. For any other tracking
store, and a file of an unknown layout, `studies.tracking.tag_run` does the same through MLflow.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from studies.base.markdown import escaped
from studies.base.redaction import without_password

NAME = "mlflow.runName"
NOTE = "mlflow.note.content"
"""MLflow's tags for the name and the description of a run."""
REASON = "status_reason"
"""Tag that says why a run did not finish."""
REASON_LENGTH = 5000
"""Characters that are kept of a reason."""
NAME_LENGTH = 80
"""Characters of a name that is made of a message."""
INPUTS = ("data_dir", "images")
"""Fields with paths of files that a command reads."""
SQLITE = "sqlite:///"
RUNNING = "SELECT run_uuid FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
BUSY_SECONDS = 10.0
"""How long a write waits for other processes that write to the same SQLite file."""


def opened_run() -> str | None:
    """Return the ID of the run that `mlflow run` has opened and no command has used; None without `mlflow run`."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def with_callers_paths(config: Any) -> Any:
    """Return a configuration whose paths of inputs are relative to the folder in which `mlflow run` was called.

    `mlflow run` starts our code in the project's folder.
    """
    given = {name: Path(value) for name in INPUTS if (value := getattr(config, name, None)) is not None}
    relative = {name: path for name, path in given.items() if not path.is_absolute()}
    if not relative or opened_run() is None:
        return config
    folder = _callers_folder()
    return replace(config, **{name: str(Path(os.path.normpath(folder / path))) for name, path in relative.items()})


def find_callers_modules(config: Any) -> None:
    """Let modules of own models be found in the folder in which `mlflow run` was called, after all other folders."""
    if hasattr(config, "model") and opened_run() and (folder := str(_callers_folder())) not in sys.path:
        sys.path.append(folder)


def _callers_folder() -> Path:
    """Return the folder of the nearest process that does not have the variables of `mlflow run`."""
    import psutil

    with suppress(psutil.Error, OSError):
        process = psutil.Process()
        for each in (process, *process.parents()):
            if "MLFLOW_RUN_ID" not in each.environ():
                return Path(each.cwd())
    return Path.cwd()


def running_in_file() -> set[str] | None:
    """Return the IDs of the runs that are RUNNING, except the opened one; None if the store is no known SQLite file."""
    import sqlite3  # here and not above: `--help` does not need it

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    file = Path(uri.removeprefix(SQLITE))
    with suppress(sqlite3.Error):
        if uri.startswith(SQLITE) and file.is_file():
            with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
                found = database.execute(RUNNING).fetchall()
            return {run_id for (run_id,) in found} - {opened_run()}
    return None


def name_tags(command: str) -> dict[str, str]:
    """Return the tags of the opened run of a command that records nothing else in it."""
    return {NAME: command, "kind": command}


def failure_tags(command: str, message: str, started: bool) -> dict[str, str]:
    """Return the tags of the opened run after a failure: a telling name, and the whole message as its description.

    Args:
        command: the entry point.
        message: what is wrong.
        started: whether the command ran, as `doctor` does before it reports problems; otherwise it was not started.
    """
    message = without_password(message)[:REASON_LENGTH]
    prefix = command if started else "not started"
    heading = f"**`{command}` failed:**" if started else f"**`{command}` was not started:**"
    note = f"{heading}\n\n{_as_markdown(message)}"
    return {NAME: f"{prefix}: {summary(message)}", NOTE: note, REASON: message, "kind": command}


def summary(message: str) -> str:
    """Return the start of a message as a name: its first mistake up to the first colon or full stop, or cut."""
    lines = [line.strip() for line in message.splitlines()]
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    end = min((at for mark in (": ", ". ", "; ") if (at := first.find(mark)) > 0), default=len(first))
    return first[:end] if end <= NAME_LENGTH else f"{first[: NAME_LENGTH - 1]}…"


def _as_markdown(message: str) -> str:
    """Return a message as Markdown: the lines after the first one become a list."""
    first, *others = message.splitlines()
    return "\n".join([escaped(first), "", *(f"- {escaped(line)}" for line in others)]).strip()


def tag_in_file(run_id: str, tags: Mapping[str, str]) -> bool:
    """Set tags of a run in MLflow's SQLite file; return whether they were set.

    They were not if the store is another one, has another layout, or does not have the run.
    """
    import sqlite3  # here and not above: `--help` does not need it

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    file = Path(uri.removeprefix(SQLITE))
    with suppress(sqlite3.Error):
        if uri.startswith(SQLITE) and file.is_file():
            with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database, database:
                named = database.execute("UPDATE runs SET name = ? WHERE run_uuid = ?", (tags[NAME], run_id))
                if named.rowcount == 1:
                    rows = [(key, value, run_id) for key, value in tags.items()]
                    database.executemany("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)
                    return True
    return False
