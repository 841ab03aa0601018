"""Storages of studies: a journal file, PostgreSQL, or a SQLite file."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from segmentation.errors import InputError
from studies.base.errors import is_of_mlflow, reason
from studies.base.redaction import refuse_passwords
from studies.config import StudyConfig
from studies.search.retries import retry_after_death

CONNECTIONS: dict[str, Any] = {
    "pool_pre_ping": True,
    "connect_args": {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3},
}
"""Options of connections to PostgreSQL, which are idle for minutes while a trial trains. A connection that was closed
is replaced before it is used. A connection that a firewall dropped is detected within a minute instead of two hours."""
POSTGRESQL = ("postgresql", "postgresql+psycopg")
"""URL schemes that reach PostgreSQL through psycopg 3."""
MLFLOW_TABLE = "experiments"
"""A table of MLflow's databases, which Optuna's do not have."""
OPERATION = "op_code"
"""Key in every line of Optuna's journals."""
LONGEST_LINE = 2**20
"""Bytes of a journal's first line that are read."""
NOT_FOUND = "Record does not exist."
"""Message of the `KeyError` that Optuna raises for a deleted study or trial."""


@contextmanager
def open_storage(config: StudyConfig, heartbeat: int) -> Iterator[BaseStorage]:
    """Open the storage that `storage` names, create it if needed, and close it afterwards.

    Args:
        config: names the storage.
        heartbeat: seconds between the heartbeats that workers write to PostgreSQL.

    Raises:
        InputError: the storage cannot be used, or stopped answering.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = config.storage
    refuse_passwords([f"--storage={address}"])
    try:
        if "://" in address:
            try:
                storage: BaseStorage = _database(address, heartbeat)
            except SQLAlchemyError:  # another process may be creating the tables
                time.sleep(1)
                storage = _database(address, heartbeat)
        else:
            storage = _journal(address)
    except InputError:
        raise
    except (SQLAlchemyError, RuntimeError, ValueError) as error:  # ValueError: the address is not a URL
        raise InputError(f"storage={address} cannot be used: {reason(error)}") from error
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        if is_of_mlflow(error):
            raise
        raise InputError(
            f"storage={address} stopped answering: {reason(error)}. Nothing is lost: run the same command again to "
            f"resume the study"
        ) from error
    except KeyError as error:
        if NOT_FOUND not in str(error):
            raise
        raise InputError(
            f"storage={address}: the study was deleted while it ran; run the same command again to start a new one"
        ) from error
    finally:
        if isinstance(storage, RDBStorage):
            storage.scoped_session.remove()
            storage.engine.dispose()


def one_process_only(address: str) -> bool:
    """Whether only one process can use a storage."""
    return address.startswith("sqlite")


def is_missing(address: str) -> bool:
    """Whether a storage is a file that does not exist."""
    file = address.removeprefix("sqlite:///")
    return "://" not in file and not Path(file).exists()


def studies_beside(study: Study) -> list[Study]:
    """All studies in the storage of a study, including itself."""
    storage = study._storage
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


def _database(address: str, heartbeat: int) -> RDBStorage:
    scheme, _, rest = address.partition("://")
    if scheme == "sqlite":
        _writable(Path(rest.partition("?")[0].removeprefix("/")))
        _refuse_mlflow(address)
        return RDBStorage(address)
    if scheme not in POSTGRESQL:
        raise InputError(f"storage={address}: {_why_refused(scheme)}")
    _refuse_mlflow(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            address,
            engine_kwargs=CONNECTIONS,
            heartbeat_interval=heartbeat,
            grace_period=2 * heartbeat,
            heartbeat_stale_trial_callback=retry_after_death,
        )


def _refuse_mlflow(address: str) -> None:
    """Raise an `InputError` if a database is MLflow's, before Optuna creates tables in it that neither can use."""
    engine = sqlalchemy.create_engine(address)
    try:
        if sqlalchemy.inspect(engine).has_table(MLFLOW_TABLE):
            raise InputError(
                f"storage={address} is a database of MLflow, and studies need one of their own: leave storage out, or "
                f"name another file or database"
            )
    finally:
        engine.dispose()


def _why_refused(scheme: str) -> str:
    """Why a URL scheme is refused, and what to write instead."""
    dialect = scheme.partition("+")[0]
    if dialect in ("postgres", "postgresql"):
        return f"the installed driver is psycopg 3; write postgresql:// instead of {scheme}://"
    if dialect in ("mysql", "mariadb"):
        return (
            "MySQL and MariaDB are not supported: no driver is installed, and the detection of dead workers is not "
            "tested there. Write postgresql://HOST/NAME"
        )
    if dialect == "sqlite":
        return f"write sqlite:///FILE, without a driver, instead of {scheme}://"
    return f"unknown scheme {scheme}; write FILE.journal, postgresql://HOST/NAME or sqlite:///FILE"


def _journal(address: str) -> JournalStorage:
    """Open a journal, whose first line is checked: Optuna takes an unreadable last line for an unfinished one."""
    file = _writable(Path(address))
    try:
        if Path(file).exists() and Path(file).stat().st_size:
            with Path(file).open("rb") as stream:
                json.loads(stream.readline(LONGEST_LINE))[OPERATION]
        return JournalStorage(JournalFileBackend(file))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"storage={address} is not a journal of studies, or is damaged: name another file") from error


def _writable(file: Path) -> str:
    folder = file.absolute().parent
    if not folder.is_dir():
        raise InputError(f"storage={file}: the folder {folder} does not exist; create it or name another")
    if not os.access(file if file.exists() else folder, os.W_OK) or file.is_dir():
        raise InputError(f"storage={file} cannot be written; name a file in a folder that you can write to")
    return str(file)
