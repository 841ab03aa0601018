"""Storages of studies: lost connections and databases."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import mlflow
import optuna
import psycopg
import pytest

from segmentation.errors import InputError
from studies.config import StudyConfig
from studies.search.storage import open_storage
from tests.services.postgres import postgres_server

pytestmark = pytest.mark.slow


def test_a_connection_that_was_closed_while_idle_is_replaced(postgres: str) -> None:
    """Firewalls and administrators close idle connections; an epoch takes longer."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE idle")
        connection.execute("ALTER DATABASE idle SET idle_session_timeout = '500ms'")
    with open_storage(StudyConfig(storage=postgres.rpartition("/")[0] + "/idle"), heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name="idle")
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            trial = study.ask()
        for epoch in range(2):
            time.sleep(1)
            trial.report(1.0 / (1 + epoch), epoch)
        study.tell(trial, 0.5)
        assert [each.intermediate_values for each in study.trials] == [{0: 1.0, 1: 0.5}]


def test_a_database_that_stops_is_an_input_error() -> None:
    def start_and_stop() -> None:
        with (
            postgres_server() as server,
            open_storage(StudyConfig(storage=server.address), heartbeat=60) as storage,
        ):
            optuna.create_study(storage=storage, study_name="there")
            server.stop()
            optuna.create_study(storage=storage, study_name="gone")

    with pytest.raises(InputError, match="storage=postgresql.* stopped answering"):
        start_and_stop()


@pytest.mark.parametrize(
    "content",
    [
        b"junk",
        b"junk\n",
        b'{"a": 1}\n',
        b"[]\n",
        b"3\n",
        b"\xff\x00\n",
        b'{"op_code": 0}\n',
        b'{"op_code": 0}\njunk\n{',
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "mine.journal"
    file.write_bytes(content)
    with (
        pytest.raises(InputError, match=f"storage={file} is not a journal of studies"),
        open_storage(StudyConfig(storage=str(file)), heartbeat=60),
    ):
        pass
    assert file.read_bytes() == content


def test_a_database_of_mlflow_is_refused_and_stays_as_it_is(store: str, postgres: str) -> None:
    """Both write their version into tables of the same name, after which neither can use the database."""

    def tables() -> set[str]:
        with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
            return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}

    mlflow.create_experiment("theirs")
    before = tables()
    assert "experiments" in before
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE theirs")
    address = postgres.rpartition("/")[0] + "/theirs"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    for each in (store, address):
        with (
            pytest.raises(InputError, match="is a database of MLflow"),
            open_storage(StudyConfig(storage=each), heartbeat=60),
        ):
            pass
    assert tables() == before
