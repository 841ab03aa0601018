"""The services of compose.yaml without containers: each by its own command line, on free ports of loopback."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT
from tests.services import compose
from tests.services.postgres import Postgres, free_port, postgres_server

PATIENCE = 120
"""Seconds that a server may take to start."""
OURS = re.compile(r"(MLFLOW|PG|AWS|OPTUNA)")


@dataclass(frozen=True)
class Stack:
    """PostgreSQL, an MLflow server with accounts, and an S3 server, all configured by the same .env."""

    variables: dict[str, str]
    postgres: Postgres
    objects: str
    """Address of the S3 server."""
    mlflow: str
    """Address of the MLflow server."""
    servers: tuple[int, int]
    """Process ids of these two."""
    log: Path
    """Output of the MLflow server."""

    def worker(self) -> compose.Service:
        """Return the command and the environment of a worker."""
        said = compose.service("worker", self.variables)
        here = {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port), "MLFLOW_TRACKING_URI": self.mlflow,
        }  # fmt: skip
        return compose.Service(
            [sys.executable, str(PROJECT / "mlproject.py"), *said.command[2:]], environment(said, here)
        )

    def bucket(self) -> Any:
        """Return the bucket of the object store."""
        import boto3

        return boto3.resource(
            "s3", endpoint_url=self.objects, aws_access_key_id=self.variables["S3_ACCESS_KEY"],
            aws_secret_access_key=self.variables["S3_SECRET_KEY"], region_name="us-east-1",
        ).Bucket("mlflow")  # fmt: skip


def env_file(place: Path) -> dict[str, str]:
    """Return the variables of the .env that the command in docs/scale.md writes."""
    page = (PROJECT / "docs/scale.md").read_text()
    (command,) = re.findall(r"^ *\(umask 077\n.*?^ *\)$", page, re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-ec", command], cwd=place, check=True)
    assert (place / ".env").stat().st_mode & 0o077 == 0
    return dict(line.split("=", 1) for line in (place / ".env").read_text().splitlines())


def environment(said: compose.Service, here: Mapping[str, str]) -> dict[str, str]:
    """Return a service's environment, with `here` added and the test's own settings removed."""
    kept = {name: value for name, value in os.environ.items() if not OURS.match(name) or name == "AWS_CA_BUNDLE"}
    return kept | {"OMP_NUM_THREADS": "1"} | said.environment | here


@contextmanager
def stack(mlflow_workers: int = 1, connections: int = 100) -> Iterator[Stack]:
    """Start all services, and stop them afterwards."""
    with ExitStack() as opened:
        place = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="services-")))
        variables = env_file(place) | {"MLFLOW_WORKERS": str(mlflow_workers)}
        postgres = opened.enter_context(postgres_server(variables["POSTGRES_PASSWORD"], connections))
        _make_databases(postgres, variables)
        port = free_port()
        objects = f"http://127.0.0.1:{port}"
        moto = [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        store = opened.enter_context(
            server(moto, dict(os.environ), place / "objects.log", f"{objects}/moto-api/data.json")
        )
        elsewhere = {"MLFLOW_S3_ENDPOINT_URL": objects}
        said = compose.service("bucket", variables)
        made = [sys.executable, *said.command[1:]]
        subprocess.run(made, env=environment(said, elsewhere), check=True, cwd=place)
        said, port = compose.service("mlflow", variables), free_port()
        (place / "accounts.ini").write_text(compose.config("accounts"))
        elsewhere |= {
            "PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "MLFLOW_AUTH_CONFIG_PATH": str(place / "accounts.ini"),
        }  # fmt: skip
        mlflow = f"http://127.0.0.1:{port}"
        words = _on_loopback(said.command, port)
        tracking = opened.enter_context(
            server(words, environment(said, elsewhere), place / "mlflow.log", f"{mlflow}/health")
        )
        yield Stack(variables, postgres, objects, mlflow, (store, tracking), place / "mlflow.log")


@contextmanager
def server(command: Sequence[str], env: Mapping[str, str], log: Path, answers: str) -> Iterator[int]:
    """Start a server, wait until its address answers, yield its PID, and kill it afterwards."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=dict(env), stdout=out, stderr=out, cwd=log.parent, start_new_session=True
        )
    try:
        patience = time.monotonic() + PATIENCE
        while not _answers(answers):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < patience, log.read_text()
            time.sleep(0.2)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _on_loopback(command: Sequence[str], port: int) -> list[str]:
    words = list(command)
    words[words.index("--host") + 1], words[words.index("--port") + 1] = "127.0.0.1", str(port)
    assert words[0] == "mlflow"
    return [sys.executable, "-m", "mlflow", *words[1:]]


def _make_databases(postgres: Postgres, variables: Mapping[str, str]) -> None:
    """Run the script that the container runs when it is new."""
    said = compose.service("postgres", variables)
    here = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "postgres"}
    here |= {"PGPASSWORD": variables["POSTGRES_PASSWORD"]}
    subprocess.run(
        [postgres.psql, "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--quiet", "postgres"],
        input=compose.config("databases"), env=environment(said, here), text=True, check=True,
    )  # fmt: skip
