"""The place where runs are recorded: whether it can be used, and calls that outlast its short absences."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from studies.secrets import keep_apart, without_password
from studies.tracking.sending import FINAL

T = TypeVar("T")

SQLITE = "sqlite:///"
PATIENCE = 60.0
"""Seconds without any answer after which MLflow is no longer waited for."""
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
"""MLflow's own patience, unless the user has set it: 7 attempts of 120 s each, before our journal may try again; and no
lines of its own among ours."""


def address() -> str:
    """Where runs are recorded."""
    return without_password(mlflow.get_tracking_uri())


def is_absent() -> bool:
    """Whether nothing was recorded yet: the store is a file that is not there."""
    uri = mlflow.get_tracking_uri()
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()


def check_store(patience: float = 0.0) -> None:
    """Raise an `InputError` where MLflow would retry for minutes, once nothing has answered for `patience` seconds."""
    keep_apart()
    for key, value in REQUESTS.items():
        os.environ.setdefault(key, value)
    deadline = time.monotonic() + patience
    while True:
        try:
            _check_store()
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _check_store() -> None:
    uri = mlflow.get_tracking_uri()
    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE))
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise InputError(
                f"runs cannot be recorded in {file}: it cannot be written. Go to a folder that can be, or set "
                f"MLFLOW_TRACKING_URI"
            )
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # something answers; whether it lets us in, MLflow will say
    except (OSError, ValueError) as error:
        raise InputError(
            f"no MLflow server answers at {without_password(uri)} ({getattr(error, 'reason', error)}): start it, or "
            f"set MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def patiently(call: Callable[[], T]) -> T:
    """What MLflow answers, asked again for a while when it does not."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except MlflowException as error:
            turned_away = "error code 401" in str(error) or "error code 403" in str(error)
            if turned_away or error.error_code in FINAL or time.monotonic() > deadline:
                raise
            time.sleep(1)


def unusable(error: Exception) -> InputError:
    """What to tell a user of MLflow's error, without passwords."""
    why = without_password(str(error))
    told = f"MLflow at {address()} cannot be used: {next(iter(why.splitlines()), type(error).__name__)}"
    if "error code 401" in why:
        told += ". Give user and password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return InputError(told)


def experiment_id(name: str) -> str:
    """The experiment's id, made if there is none; without MLflow's process-wide "active experiment"."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with suppress(MlflowException):  # another process may have been faster
            return client.create_experiment(name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise InputError(f"MLflow can make no experiment called {name!r}")
    return str(experiment.experiment_id)
