"""Where studies are kept, and what happens to the trials of workers that died."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from segmentation.errors import InputError
from segmentation.system.processes import is_dead
from studies.base.errors import reason
from studies.base.redaction import refuse_passwords
from studies.config import StudyConfig
from studies.search.plan import EPOCHS
from studies.search.samplers import RETRY_OF

WORKER = "worker"
"""Attribute of a trial: the worker that does it, as `processes.me` tells."""
REASON = "reason"
"""Attribute of a trial that did not complete: why."""
DEATHS = "deaths"
"""Attribute of a trial: how many workers in a row have died over it, none of which had finished an epoch."""
DIED_AT = "died_at"
"""Attribute of a trial: epochs that it had been trained for when a worker last died over it."""
MAX_DEATHS = 3
"""A training that so many workers in a row died over is not tried again."""
CLAIMING_SECONDS = 60
"""A trial without a worker's name after this time was claimed by one that died at once."""
CONNECTIONS: dict[str, Any] = {
    "pool_pre_ping": True,
    "connect_args": {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3},
}
"""A training leaves its connection idle for minutes. One that was closed meanwhile is replaced when it is needed; one
that a firewall has dropped in silence is noticed by TCP within a minute, not two hours."""
POSTGRESQL = ("postgresql", "postgresql+psycopg")
"""Schemes of addresses that reach PostgreSQL through psycopg 3."""
NOT_FOUND = "Record does not exist."
"""What Optuna's `KeyError` says of a study or trial that was deleted."""
_UNCLAIMED: dict[tuple[str, int], float] = {}
"""When this process first saw a trial that bears no worker's name, as of `time.monotonic()`: the times that a database
holds are those of many machines, each in its own time zone."""


@contextmanager
def open_storage(config: StudyConfig, heartbeat: int) -> Iterator[BaseStorage]:
    """Open or make the place that `storage` names, and close it afterwards.

    Args:
        config: names it.
        heartbeat: seconds between the signs of life that workers leave in a database.

    Raises:
        InputError: it cannot be used, or no longer answers.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = config.storage
    refuse_passwords([f"--storage={place}"])
    try:
        if "://" in place:
            try:
                storage: BaseStorage = _database(place, heartbeat)
            except SQLAlchemyError:  # another process may be making the tables
                time.sleep(1)
                storage = _database(place, heartbeat)
        else:
            storage = JournalStorage(JournalFileBackend(_writable(Path(place))))
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"storage={place} is no journal of studies, or damaged: name another file") from error
    except (SQLAlchemyError, RuntimeError, ValueError) as error:  # the last for an address that is none
        raise InputError(f"storage={place} cannot be used: {reason(error)}") from error
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(
            f"storage={place} does not answer any more: {reason(error)}. Nothing is lost: the same command goes on "
            f"with the study"
        ) from error
    except KeyError as error:
        if NOT_FOUND not in str(error):
            raise
        raise InputError(
            f"storage={place}: the study was deleted meanwhile; the same command begins it anew, in a run of its own"
        ) from error
    finally:
        if isinstance(storage, RDBStorage):
            storage.scoped_session.remove()
            storage.engine.dispose()


def _database(place: str, heartbeat: int) -> RDBStorage:
    scheme, _, rest = place.partition("://")
    if scheme == "sqlite":
        _writable(Path(rest.partition("?")[0].removeprefix("/")))
        return RDBStorage(place)
    if scheme not in POSTGRESQL:
        raise InputError(f"storage={place}: {_why_not(scheme)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            place,
            engine_kwargs=CONNECTIONS,
            heartbeat_interval=heartbeat,
            grace_period=2 * heartbeat,
            heartbeat_stale_trial_callback=retry_after_death,
        )


def _why_not(scheme: str) -> str:
    """Why an address of this scheme is refused, and what to name instead."""
    dialect = scheme.partition("+")[0]
    if dialect in ("postgres", "postgresql"):
        return f"the driver that is installed is psycopg 3; write postgresql:// instead of {scheme}://"
    if dialect in ("mysql", "mariadb"):
        return (
            "MySQL and MariaDB are not supported: no driver for them is installed, and that dead workers are noticed "
            "there was never tested. Name postgresql://HOST/NAME"
        )
    if dialect == "sqlite":
        return f"write sqlite:///FILE, with no driver, instead of {scheme}://"
    return f"{scheme} is not known; name FILE.journal, postgresql://HOST/NAME or sqlite:///FILE"


def one_process_only(place: str) -> bool:
    """Whether a storage bears one worker only."""
    return place.startswith("sqlite")


def is_missing(place: str) -> bool:
    """Whether a storage is a file that is not there."""
    file = place.removeprefix("sqlite:///")
    return "://" not in file and not Path(file).exists()


def studies_beside(study: Study) -> list[Study]:
    """Every study of a study's storage."""
    storage = study._storage
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


def running(study: Study) -> list[FrozenTrial]:
    """The trials that a worker is at."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def reap(study: Study) -> None:
    """Put the trials of dead workers back into the queue, and those that another worker died over doing so.

    Workers on this machine are looked for among its processes; those on others, in a database, by their heartbeat.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    dead = [trial for trial in trials if trial.state == TrialState.RUNNING and _is_dead(study, trial)]
    for trial in dead:
        with suppress(UpdateFinishedTrialError, ValueError):  # another worker was faster
            study.tell(trial.number, state=TrialState.FAIL)
    if dead:
        trials = study.get_trials(deepcopy=False)
    followed = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        if waits_for_retry(trial) and trial.number not in followed:
            retry_after_death(study, trial)  # another may be doing so, too: a worker leaves what is there twice


def waits_for_retry(trial: FrozenTrial) -> bool:
    """Whether a trial failed with its worker, and has not cost too many."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs and _deaths(trial) < MAX_DEATHS


def retry_after_death(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial again, unless it has cost too many workers."""
    deaths = _deaths(trial)
    if deaths < MAX_DEATHS:
        retry(study, trial, deaths)


def _deaths(trial: FrozenTrial) -> int:
    """How many workers in a row have died over a trial, with the one that just has."""
    got_on = trial.user_attrs.get(EPOCHS, 0) > trial.user_attrs.get(DIED_AT, 0)
    return 1 if got_on else int(trial.user_attrs.get(DEATHS, 0)) + 1


def retry(study: Study, trial: FrozenTrial, deaths: int = 0) -> None:
    """Queue a trial again; who takes it goes on from its checkpoint in its MLflow run."""
    kept = {name: value for name, value in trial.user_attrs.items() if name not in (WORKER, REASON)}
    kept |= {RETRY_OF: trial.number, DEATHS: deaths, DIED_AT: trial.user_attrs.get(EPOCHS, 0)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=kept,
            system_attrs=dict(trial.system_attrs),
            intermediate_values=trial.intermediate_values,
        )
    )


def _is_dead(study: Study, trial: FrozenTrial) -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        first_seen = _UNCLAIMED.setdefault((study.study_name, trial.number), time.monotonic())
        return time.monotonic() - first_seen > CLAIMING_SECONDS
    return is_dead(worker) is True


def _writable(file: Path) -> str:
    if not file.absolute().parent.is_dir():
        raise InputError(f"storage={file}: the folder {file.absolute().parent} is not there")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK) or file.is_dir():
        raise InputError(f"storage={file} cannot be written; name a file in a folder that can be")
    return str(file)
