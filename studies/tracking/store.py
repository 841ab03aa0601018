"""The tracking store: check that it can be used, and call it with retries or a timeout."""

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
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.utils.credentials import get_default_host_creds

from segmentation.errors import InputError
from segmentation.system import interruption
from studies.base.errors import TLS, AwayError, is_away, unusable
from studies.base.redaction import move_credentials_to_environment, without_password

T = TypeVar("T")

SQLITE = "sqlite:///"
RETRY_SECONDS = 60.0
"""MLflow is retried for this long before a caller gives up."""
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
"""Settings of MLflow unless the user has set them. By default MLflow makes 7 attempts of 120 s each, before our journal
can retry, and prints lines among ours."""
PROBE_SECONDS = 10.0
"""Timeout of the request that checks whether the server answers."""


def address() -> str:
    """Return the address of the tracking store, without passwords."""
    return without_password(mlflow.get_tracking_uri())


def is_absent() -> bool:
    """Return whether the store is a file that does not exist yet, so that nothing is recorded."""
    uri = mlflow.get_tracking_uri()
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()


def check_store(seconds: float = 0.0, create: bool = True) -> None:
    """Raise an `InputError` if the store cannot be used, after retrying for `seconds`; `create` a missing database.

    Without this check MLflow would retry for minutes.
    """
    move_credentials_to_environment()
    for key, value in REQUESTS.items():
        os.environ.setdefault(key, value)
    deadline = time.monotonic() + seconds
    while True:
        try:
            _check_store(create)
        except InputError:
            if time.monotonic() > deadline or interruption.is_stopping():
                raise
            time.sleep(1)
        else:
            return


def _check_store(create: bool) -> None:
    uri = mlflow.get_tracking_uri()
    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE))
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise InputError(
                f"runs cannot be recorded in {file}: it is not writable. Change to a writable folder, or set "
                f"MLFLOW_TRACKING_URI"
            )
        if create and not file.exists():
            _create(file)
    if not uri.startswith(("http://", "https://")):
        return
    try:
        settings = get_default_host_creds(uri)  # the certificates that MLflow's requests use
        health = f"{uri.rstrip('/')}/health"
        # any status will do: MLflow reports a missing permission
        requests.get(health, timeout=5, verify=settings.verify, cert=settings.client_cert_path).close()
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"the MLflow server at {without_password(uri)} answers, but a secure connection fails "
            f"({_last_reason(error)}): {TLS}. For a server that asks for a certificate, set "
            f"MLFLOW_TRACKING_CLIENT_CERT_PATH"
        ) from error
    except MlflowException as error:  # conflicting TLS settings
        raise unusable(error) from error
    except (OSError, ValueError) as error:
        raise AwayError(
            f"no MLflow server answers at {without_password(uri)} ({_last_reason(error)}): start it, set "
            f"MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def _create(file: Path) -> None:
    """Create MLflow's database under another name and rename it, so that a killed process leaves a whole one or none.

    MLflow creates it by many migrations and cannot use one in which only some of them have run.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # takes a second, for a new database only

    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        SqlAlchemyStore(f"{SQLITE}{unfinished}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        with suppress(FileExistsError):  # another process was faster
            os.link(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _last_reason(error: BaseException) -> str:
    """Return the innermost error of an error of `requests`, which wraps it in several others."""
    while inner := next((part for part in (*error.args, getattr(error, "reason", None)) if _is_error(part)), None):
        error = inner
    return without_password(str(error))


def _is_error(part: object) -> bool:
    return isinstance(part, BaseException)


def with_retries(call: Callable[[], T]) -> T:
    """Return the result of a call to MLflow, retried for `RETRY_SECONDS`; less if this process is stopping.

    Raises:
        AwayError: MLflow does not answer.
        MlflowException: MLflow refuses the call.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return with_timeout(call, interruption.seconds_left()) if interruption.is_stopping() else call()
        except MlflowException as error:
            if not is_away(error):
                raise
            if time.monotonic() > deadline or interruption.is_stopping():
                raise unusable(error) from error
            time.sleep(1)


def with_timeout(call: Callable[[], T], seconds: float) -> T:
    """Return the result of a call to MLflow.

    Raises:
        MlflowException: no response within `seconds`, or an error.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a request that hangs cannot be cancelled, only abandoned
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise MlflowException(f"no response within {seconds:.0f} s", TEMPORARILY_UNAVAILABLE)
    return results[0]


def answers() -> bool:
    """Return whether MLflow answers now.

    Raises:
        InputError: it answers, but refuses this user.
    """
    try:
        check_store()
        with_timeout(lambda: mlflow.MlflowClient().search_experiments(max_results=1), PROBE_SECONDS)
    except AwayError:
        return False
    except MlflowException as error:
        if is_away(error):
            return False
        raise unusable(error) from error
    return True


def experiment_id(name: str) -> str:
    """Return the ID of an experiment, created if missing; MLflow's process-wide "active experiment" is not changed.

    Raises:
        InputError: it was deleted, or cannot be created.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with suppress(MlflowException):  # another process may have created it since
            return client.create_experiment(name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise InputError(f"experiment={name!r}: MLflow cannot create it")
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"experiment={name!r} was deleted: restore it with `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`, or name another one"
        )
    return str(experiment.experiment_id)
