"""The passwords of a study are printed, recorded and stored nowhere; a changed one ends the worker with advice."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from optuna import Trial

import mlproject
from studies.search.worker import Worker
from tests.services.stack import Stack
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow


def fields(own_data: Path, **more: object) -> list[str]:
    said = tiny(own_data, epochs=1, study_name="passwords", n_trials=1) | more
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


def run(command: list[str], words: list[str], env: Mapping[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *words], env=dict(env), cwd=place, capture_output=True, text=True, timeout=300)


def recorded(stack: Stack, database: str) -> str:
    """Return the dump of a database."""
    dump = Path(stack.postgres.psql).with_name("pg_dump")
    env = {"PGPASSWORD": stack.variables["POSTGRES_PASSWORD"]}
    words = [str(dump), "-h", "127.0.0.1", "-p", str(stack.postgres.port), "-U", "postgres", database]
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def secrets(stack: Stack) -> dict[str, str]:
    return {
        "MLflow": stack.variables["MLFLOW_ADMIN_PASSWORD"], "Optuna": stack.variables["OPTUNA_DB_PASSWORD"],
    }  # fmt: skip


def test_a_study_leaves_no_password_anywhere(
    stack: Stack, own_data: Path, tmp_path: Path, secrets: dict[str, str]
) -> None:
    worker = stack.worker()
    env = {name: value for name, value in worker.environment.items() if not name.startswith("MLFLOW_TRACKING_")}
    env["MLFLOW_TRACKING_URI"] = stack.mlflow.replace("//", f"//admin:{secrets['MLflow']}@")
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    assert env["PGPASSWORD"] == secrets["Optuna"]
    storage = f"postgresql://optuna@127.0.0.1:{stack.postgres.port}/optuna"
    done = run(worker.command[:3], fields(own_data, storage=storage), env, tmp_path)
    assert done.returncode == 0, done.stderr
    left = {
        "what it printed": done.stdout + done.stderr,
        "MLflow's database": recorded(stack, "mlflow"),
        "Optuna's database": recorded(stack, "optuna"),
        "the object store": "".join(
            each.get()["Body"].read().decode("latin-1") for each in stack.bucket().objects.all()
        ),
        "its folder": "".join(file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()),
    }  # fmt: skip
    for place, text in left.items():
        assert "passwords" in text or "val" in text, f"{place} holds what was recorded"
        for whose, secret in secrets.items():
            assert secret not in text, f"{whose}'s password is in {place}"


@pytest.mark.parametrize("place", ["user", "query"])
def test_a_storage_with_a_password_is_refused_before_anything_is_recorded(
    stack: Stack, own_data: Path, tmp_path: Path, secrets: dict[str, str], place: str
) -> None:
    host, secret = f"127.0.0.1:{stack.postgres.port}/optuna", secrets["Optuna"]
    storage = {"user": f"postgresql://optuna:{secret}@{host}", "query": f"postgresql://{host}?password={secret}"}[place]
    worker, before = stack.worker(), recorded(stack, "mlflow").count("storage")
    env = {name: value for name, value in worker.environment.items() if name != "PGPASSWORD"}
    done = run(worker.command[:3], fields(own_data, storage=storage), env, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: storage holds a password")
    assert secret not in done.stdout + done.stderr
    assert recorded(stack, "mlflow").count("storage") == before


def psql(stack: Stack, *statements: str) -> None:
    command = [stack.postgres.psql, "-h", "127.0.0.1", "-p", str(stack.postgres.port), "-U", "postgres", "-q"]
    options = [word for statement in statements for word in ("-c", statement)]
    env = {"PGPASSWORD": stack.variables["POSTGRES_PASSWORD"]}
    subprocess.run([*command, *options, "postgres"], env=env, check=True, capture_output=True)


@pytest.mark.usefixtures("as_admin")
def test_a_password_that_changes_during_a_study_ends_the_worker(
    stack: Stack, own_data: Path, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """PostgreSQL asks for the password when a connection is opened, so the test closes the open ones, too."""
    monkeypatch.setenv("PGPASSWORD", secrets["Optuna"])
    report_epoch, epochs = Worker._report_epoch, []

    def change_password(self: Worker, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        if not epochs:
            psql(
                stack, "ALTER USER optuna PASSWORD 'another one'",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'optuna'",
            )  # fmt: skip
        epochs.append(epoch)
        report_epoch(self, trial, epoch, metrics)

    monkeypatch.setattr(Worker, "_report_epoch", change_password)
    storage = f"postgresql://optuna@127.0.0.1:{stack.postgres.port}/optuna"
    try:
        code = mlproject.main(["tune", *fields(own_data, storage=storage, study_name="changed", n_trials=99)])
    finally:
        psql(stack, f"ALTER USER optuna PASSWORD '{secrets['Optuna']}'")
    printed = capsys.readouterr().err
    assert code == 1
    assert len(epochs) == 1, "no further trial is started"
    assert "password authentication failed" in printed
    assert "PGPASSWORD" in printed.splitlines()[-1]
    assert "Traceback" not in printed
