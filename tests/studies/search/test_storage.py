"""Storages of studies: lost connections and databases."""

import time

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
