"""Convert errors of MLflow, Optuna, databases and S3 into an `InputError` that says what to do.

Every command passes its errors to `explained`, so that a user's mistake never shows as a traceback.
"""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segmentation.errors import InputError
from studies.base.redaction import without_password

FINAL = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's error codes that a retry cannot change."""
FINAL_S3 = ("AccessDenied", "EntityTooLarge", "NoSuchBucket")
"""S3's error codes that a retry cannot change."""
RETRIED_STATUS = (401, 403, 408, 425, 429)
"""HTTP statuses from 400 to 499 that a retry may change: a password is corrected, a rate limit ends."""
STATUS_IN_TEXT = re.compile(r"failed with error code (\d{3})\b")
"""How MLflow words a server's or a proxy's response that is not JSON."""
SERVER = {"mlflow", "requests", "urllib3", "boto3", "botocore"}
"""Packages whose errors concern the tracking server, the model registry or the artifact store."""
DATABASE = {"optuna", "sqlalchemy", "psycopg"}
"""Packages whose errors concern the storage of studies."""
TLS = (
    "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of the authority that signed the server's; "
    "MLFLOW_TRACKING_INSECURE_TLS=true accepts any certificate"
)
RESTORE = "Restore it with `mlflow experiments restore` or `mlflow runs restore`, or name another experiment"
S3_KEY = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
WHAT_TO_DO = (
    ("error code 401", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ("error code 403", "This account lacks the permission: ask the server's administrator, or use another experiment"),
    ("error code 413", "The record or file exceeds the size limit of the server or its proxy: raise that limit"),
    ("certificate verify failed", f"To trust the server, {TLS}"),
    ("current state is deleted", RESTORE),
    ("must be in the 'active' state", RESTORE),
    ("resource_does_not_exist", "It may have been deleted permanently: look for its ID in the UI, and check "
     "MLFLOW_TRACKING_URI. To start again, use another name, such as another study_name"),
    ("password authentication failed", "Set the right password in PGPASSWORD or ~/.pgpass"),
    ("no password supplied", "Set the password in PGPASSWORD or ~/.pgpass"),
    ("already exists", "A process was stopped while it created this database. If it holds nothing yet, delete the file "
     "and run the command again"),
    ("(accessdenied)", "The S3 key may not write there: allow s3:PutObject for this bucket, or use another key"),
    ("(nosuchbucket)", "Create the bucket, or correct the artifact location of the experiment or the server"),
    ("(entitytoolarge)", "The file exceeds the limit of the S3 server: raise that limit"),
    ("(invalidaccesskeyid)", S3_KEY),
    ("(signaturedoesnotmatch)", S3_KEY),
)  # fmt: skip
"""Advice for an error whose text, in lower case, contains these words; the first match counts."""


class AwayError(InputError):
    """MLflow does not answer, or answers with a server error: a retry may succeed."""


def explained(error: BaseException) -> InputError | None:
    """Return the error as an `InputError`; None if it comes neither from MLflow, Optuna, a database nor S3."""
    if isinstance(error, InputError):
        return error
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if packages & SERVER or (packages & DATABASE and is_of_mlflow(error)):
        return unusable(error)
    if packages & DATABASE:
        return InputError(f"the study cannot be used: {reason(error)}")
    return None


def is_of_mlflow(error: BaseException) -> bool:
    """Return whether MLflow, rather than Optuna, made the call that failed: both may use a database."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    return next((name == "mlflow" for name in reversed(packages) if name in ("mlflow", "optuna")), False)


def why_absent(error: BaseException) -> str:
    """Return why MLflow did not find what a user has named: the reason without its ID again, and where to look."""
    if _is_mlflow(error) and getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        import mlflow

        store = without_password(mlflow.get_tracking_uri())
        return f"it is not in {store}: copy its ID or name from the UI, or set MLFLOW_TRACKING_URI"
    return reason(error)


@contextmanager
def raised_as_input_errors() -> Iterator[None]:
    """Raise errors of MLflow, Optuna, databases and S3 as `InputError`."""
    try:
        yield
    except Exception as error:
        converted = explained(error)
        if converted is None or converted is error:
            raise
        raise converted from error


def unusable(error: BaseException) -> InputError:
    """Return what to report of MLflow's error, without passwords; an `AwayError` if a retry may succeed."""
    import mlflow  # takes seconds, which commands that do without MLflow save

    message = f"MLflow at {without_password(mlflow.get_tracking_uri())} cannot be used: {reason(error)}"
    return AwayError(message) if _is_mlflow(error) and is_away(error) else InputError(message)


def is_away(error: BaseException) -> bool:
    """Return whether a retry may succeed without the user's action: not for a refusal or a wrong password."""
    return not is_final(error) and http_status(error) not in (401, 403)


def is_final(error: BaseException) -> bool:
    """Return whether a retry cannot change the response."""
    code = s3_code(error)
    if code is not None:
        return code in FINAL_S3
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in RETRIED_STATUS
    return _is_mlflow(error) and getattr(error, "error_code", None) in FINAL


def _is_mlflow(error: Any, name: str = "MlflowException") -> bool:
    """Return whether an error is of a class of `mlflow.exceptions`, without importing MLflow."""
    return any((kind.__module__, kind.__name__) == ("mlflow.exceptions", name) for kind in type(error).__mro__)


def http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status of the server's response; None if the error does not contain it."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        if _is_mlflow(error, "RestException") and "error_code" not in getattr(error, "json", {}):
            return _status_in_traceback(error)
        if _is_mlflow(error) and (found := STATUS_IN_TEXT.search(str(error))):
            return int(found[1])
        error = error.__cause__
    return None


def _status_in_traceback(error: BaseException) -> int | None:
    """Return the status of the response that the failed function held.

    MLflow drops the status of a response with a JSON body. A body without MLflow's `error_code` comes from a proxy, so
    the status alone says whether a retry can help.
    """
    from requests import Response

    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, Response):
                return value.status_code
    return None


def s3_code(error: BaseException | None) -> str | None:
    """Return the error code of an S3 server, such as `AccessDenied`; None for another error.

    boto3 raises `S3UploadFailedError` while it handles the error that holds the code, without naming it as the cause.
    """
    while error is not None:
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "")) or None
        error = error.__cause__ or (error.__context__ if type(error).__module__.startswith("boto3") else None)
    return None


def reason(error: BaseException) -> str:
    """Return the first line of an error, without passwords, and what to do about it where that is known.

    Optuna's error for a failed database says nothing about the cause, so that of the cause is returned.
    """
    if isinstance(error.__cause__, Exception) and type(error).__module__.startswith("optuna"):
        return reason(error.__cause__)
    text = without_password(str(error)).strip()
    first = next(iter(text.splitlines()), "") or type(error).__name__
    searched = f"{getattr(error, 'error_code', '')} error code {http_status(error)} {text}".lower()
    advice = next((advice for words, advice in WHAT_TO_DO if words in searched), None)
    return first if advice is None else f"{first.rstrip('. ')}. {advice}"
