"""The place where runs are recorded: whether it can be used, and calls that outlast its short absences."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.utils.credentials import get_default_host_creds

from segmentation.errors import InputError
from segmentation.system import interruption
from studies.base.errors import TLS, AwayError, is_away, unusable
from studies.base.redaction import move_credentials_to_environment, without_password

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


def address() -> str:
    """Where runs are recorded."""
    return without_password(mlflow.get_tracking_uri())


def is_absent() -> bool:
    """Whether nothing was recorded yet: the store is a file that is not there."""
    uri = mlflow.get_tracking_uri()
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()


def check_store(patience: float = 0.0) -> None:
    """Raise an `InputError` where MLflow would retry for minutes, once nothing has answered for `patience` seconds."""
    move_credentials_to_environment()
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
        settings = get_default_host_creds(uri)  # certificates, as MLflow's own requests use them
        health = f"{uri.rstrip('/')}/health"
        # whatever answers will do; whether it lets us in, MLflow will say
        requests.get(health, timeout=5, verify=settings.verify, cert=settings.client_cert_path).close()
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"the MLflow server at {without_password(uri)} answers, but no secure connection to it can be made "
            f"({_last_reason(error)}): {TLS}; a server that asks for a certificate gets that of "
            f"MLFLOW_TRACKING_CLIENT_CERT_PATH"
        ) from error
    except MlflowException as error:  # settings that exclude each other
        raise unusable(error) from error
    except (OSError, ValueError) as error:
        raise AwayError(
            f"no MLflow server answers at {without_password(uri)} ({_last_reason(error)}): start it, or "
            f"set MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def _last_reason(error: BaseException) -> str:
    """What is behind an error of `requests`, which wraps it in several others."""
    while inner := next((part for part in (*error.args, getattr(error, "reason", None)) if _is_error(part)), None):
        error = inner
    return without_password(str(error))


def _is_error(part: object) -> bool:
    return isinstance(part, BaseException)


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


def experiment_id(name: str) -> str:
    """The experiment's id, made if there is none; without MLflow's process-wide "active experiment".

    Raises:
        InputError: it was deleted, or cannot be made.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with suppress(MlflowException):  # another process may have been faster
            return client.create_experiment(name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise InputError(f"MLflow can make no experiment called {name!r}")
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"experiment={name!r} was deleted; restore it with `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`, or name another one"
        )
    return str(experiment.experiment_id)
