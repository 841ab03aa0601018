"""Errors of MLflow, of Optuna and of their databases as an `InputError` that says what to do.

Every command goes through `explained` before it ends, so that a user's trouble never shows as a traceback.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from studies.base.redaction import without_password

FINAL = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's answers that asking again does not change."""
TRY_AGAIN = (401, 403, 408, 425, 429)
"""Answers of HTTP from 400 to 499 that asking again may change: a password is corrected, a limit on requests passes."""
STATUS_IN_WORDS = re.compile(r"failed with error code (\d{3})\b")
"""How MLflow says the answer of a server, or of a proxy before it, that says nothing else."""
SERVER = {"mlflow", "requests", "urllib3"}
"""Packages whose errors come from the tracking server, the registry or the store of files."""
DATABASE = {"optuna", "sqlalchemy", "psycopg"}
"""Packages whose errors come from where studies are kept."""
TLS = (
    "name the file with the authority that signed the server's certificate in MLFLOW_TRACKING_SERVER_CERT_PATH; "
    "MLFLOW_TRACKING_INSECURE_TLS=true accepts any certificate"
)
WHAT_TO_DO = (
    ("error code 401", "Give user and password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ("error code 403", "This account may not do that: ask whoever runs the server, or take another experiment"),
    ("certificate verify failed", f"To trust it, {TLS}"),
    ("current state is deleted", "Restore it with `mlflow experiments restore` or `mlflow runs restore`, or name "
     "another experiment"),
    ("must be in the 'active' state", "Restore it with `mlflow experiments restore` or `mlflow runs restore`, or name "
     "another experiment"),
    ("resource_does_not_exist", "It may have been deleted for good: look for its ID in the UI, check "
     "MLFLOW_TRACKING_URI; what it belonged to, a study say, is begun anew under another name"),
    ("password authentication failed", "Give the right password in PGPASSWORD or ~/.pgpass"),
    ("no password supplied", "Give the password in PGPASSWORD or ~/.pgpass"),
)  # fmt: skip
"""What to do for an error in which these words stand, in lower case; the first that fits."""


class AwayError(InputError):
    """MLflow does not answer, or answers with errors of its own: the same may be done later."""


def explained(error: BaseException) -> InputError | None:
    """The error as an `InputError`; None if it comes neither from MLflow nor from Optuna nor from a database."""
    if isinstance(error, InputError):
        return error
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if packages & SERVER:
        return unusable(error)
    if packages & DATABASE:
        return InputError(f"the study cannot be used: {reason(error)}")
    return None


@contextmanager
def in_our_words() -> Iterator[None]:
    """Raise what MLflow, Optuna or a database raises inside as an `InputError`."""
    try:
        yield
    except Exception as error:
        ours = explained(error)
        if ours is None or ours is error:
            raise
        raise ours from error


def unusable(error: BaseException) -> InputError:
    """What to report of an error of MLflow, without passwords; an `AwayError` if it may pass."""
    told = f"MLflow at {without_password(mlflow.get_tracking_uri())} cannot be used: {reason(error)}"
    return AwayError(told) if isinstance(error, MlflowException) and is_away(error) else InputError(told)


def is_away(error: Exception) -> bool:
    """Whether MLflow may answer the same request later; not where it refuses it, or the password is wrong."""
    return not is_final(error) and http_status(error) not in (401, 403)


def http_status(error: BaseException | None) -> int | None:
    """The status that a server has answered with, as far as an error says it."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        if isinstance(error, MlflowException) and (said := STATUS_IN_WORDS.search(str(error))):
            return int(said[1])
        error = error.__cause__
    return None


def is_final(error: Exception) -> bool:
    """Whether asking MLflow again cannot change its answer."""
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TRY_AGAIN
    return isinstance(error, MlflowException) and error.error_code in FINAL


def reason(error: BaseException) -> str:
    """The first line of an error, without passwords, and what to do about it where that is known."""
    text = without_password(str(error)).strip()
    first = next(iter(text.splitlines()), "") or type(error).__name__
    whole = f"{getattr(error, 'error_code', '')} {text}".lower()
    advice = next((advice for words, advice in WHAT_TO_DO if words in whole), None)
    return first if advice is None else f"{first.rstrip('. ')}. {advice}"
