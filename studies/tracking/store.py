"""The place where runs are recorded: whether it can be used, and calls that outlast its short absences."""

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from segmentation import interruption
from segmentation.errors import InputError
from studies.secrets import keep_apart, without_password
from studies.tracking.sending import http_status, is_final

T = TypeVar("T")

SQLITE = "sqlite:///"
PATIENCE = 60.0
"""Seconds without any answer after which MLflow is no longer waited for."""
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
"""MLflow's own patience, unless the user has set it: 7 attempts of 120 s each, before our journal may try again; and no
lines of its own among ours."""
PROBE_SECONDS = 10.0
"""How long an answer may take of a server that is asked whether it is there."""


class AwayError(InputError):
    """MLflow does not answer, or answers with errors of its own: the same may be done later."""


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
            if time.monotonic() > deadline or interruption.is_stopping():
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
        raise AwayError(
            f"no MLflow server answers at {without_password(uri)} ({getattr(error, 'reason', error)}): start it, or "
            f"set MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def patiently(call: Callable[[], T]) -> T:
    """What MLflow answers, asked again for a while when it does not; only until its deadline if the process stops.

    Raises:
        AwayError: it has not answered.
        MlflowException: it has refused.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return promptly(call, interruption.seconds_left()) if interruption.is_stopping() else call()
        except MlflowException as error:
            if not is_away(error):
                raise
            if time.monotonic() > deadline or interruption.is_stopping():
                raise unusable(error) from error
            time.sleep(1)


def promptly(call: Callable[[], T], seconds: float) -> T:
    """What MLflow answers within some seconds.

    Raises:
        MlflowException: it has not answered, or with an error.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # a request that hangs cannot be cancelled, only left
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise MlflowException(f"no answer within {seconds:.0f} s", TEMPORARILY_UNAVAILABLE)
    return answers[0]


def is_away(error: Exception) -> bool:
    """Whether MLflow may answer the same request later; not where it refuses it, or the password is wrong."""
    return not is_final(error) and http_status(error) not in (401, 403)


def answers() -> bool:
    """Whether MLflow can be used now.

    Raises:
        InputError: it answers, but not to us.
    """
    try:
        check_store()
        promptly(lambda: mlflow.MlflowClient().search_experiments(max_results=1), PROBE_SECONDS)
    except AwayError:
        return False
    except MlflowException as error:
        if is_away(error):
            return False
        raise unusable(error) from error
    return True


def unusable(error: Exception) -> InputError:
    """What to report of MLflow's error, without passwords; an `AwayError` if it may pass."""
    why = without_password(str(error))
    told = f"MLflow at {address()} cannot be used: {next(iter(why.splitlines()), type(error).__name__)}"
    if "error code 401" in why:
        told += ". Give user and password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return AwayError(told) if isinstance(error, MlflowException) and is_away(error) else InputError(told)


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
