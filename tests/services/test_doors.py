"""Access control of the servers of compose.yaml: who may read and write what."""

import base64
import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.config import TrainConfig
from studies.runs.training import run_training
from tests.services.stack import Stack
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
READING = ("/", f"{API}/experiments/search?max_results=1", f"{API}/experiments/get?experiment_id=0", FILES, "/version")
WRITING = (
    ("POST", f"{API}/experiments/create", {"name": "a stranger's"}),
    ("POST", f"{API}/runs/create", {"experiment_id": "0"}),
    ("POST", f"{API}/users/create", {"username": "stranger", "password": "long enough 123"}),
    ("PUT", f"{FILES}/0/stranger.txt", {}),
    ("DELETE", f"{FILES}/0/stranger.txt", {}),
)


class Answer:
    """A server's response to one request."""

    def __init__(
        self,
        stack: Stack,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        user: tuple[str, str] | None = None,
        **headers: str,
    ) -> None:
        sent = None if body is None else json.dumps(body).encode()
        headers |= {"Content-Type": "application/json"}
        if user is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        request = urllib.request.Request(stack.mlflow + path, sent, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.status, self.text, self.headers = answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            self.status, self.text, self.headers = error.code, error.read().decode(), error.headers


@pytest.fixture
def admin(stack: Stack) -> tuple[str, str]:
    return "admin", stack.variables["MLFLOW_ADMIN_PASSWORD"]


@pytest.mark.parametrize("user", [None, ("admin", "wrong"), ("nobody", "wrong")], ids=["none", "wrong", "unknown"])
def test_nobody_reads_or_writes_without_a_right_password(
    stack: Stack, user: tuple[str, str] | None, admin: tuple[str, str]
) -> None:
    for path in READING:
        assert Answer(stack, "GET", path, user=user).status == 401, path
    for method, path, body in WRITING:
        assert Answer(stack, method, path, body, user=user).status == 401, path
    names = Answer(stack, "GET", f"{API}/experiments/search?max_results=100", user=admin).text
    assert "stranger" not in names


def test_the_right_password_is_accepted(stack: Stack, admin: tuple[str, str]) -> None:
    for path in READING:
        assert Answer(stack, "GET", path, user=admin).status == 200, path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "mlflow.evil.example:80"]
)
def test_a_name_that_is_not_the_server_s_is_refused(stack: Stack, admin: tuple[str, str], host: str) -> None:
    answer = Answer(stack, "GET", f"{API}/experiments/search?max_results=1", user=admin, Host=host)
    assert (answer.status, "Invalid Host header" in answer.text) == (403, True)


def test_the_page_of_another_site_may_not_write(stack: Stack, admin: tuple[str, str]) -> None:
    create = ("POST", f"{API}/experiments/create")
    refused = Answer(stack, *create, {"name": "by another site"}, admin, Origin="https://evil.example")
    assert (refused.status, "Cross-origin" in refused.text) == (403, True)
    assert "Access-Control-Allow-Origin" not in refused.headers
    reading = Answer(
        stack, "GET", f"{API}/experiments/search?max_results=9", None, admin, Origin="https://evil.example"
    )
    assert "Access-Control-Allow-Origin" not in reading.headers  # so that a browser keeps the answer from the page
    assert "by another site" not in reading.text
    own = Answer(stack, *create, {"name": "by the UI"}, admin, Origin="http://localhost:5000")
    assert (own.status, own.headers["Access-Control-Allow-Origin"]) == (200, "http://localhost:5000")


def test_one_user_s_runs_are_not_another_s_to_change(stack: Stack, admin: tuple[str, str]) -> None:
    users = [("ada", "a long password"), ("bob", "another password")]
    for name, password in users:
        created = Answer(stack, "POST", f"{API}/users/create", {"username": name, "password": password}, admin)
        assert created.status == 200, created.text
    ada, bob = users
    experiment = json.loads(Answer(stack, "POST", f"{API}/experiments/create", {"name": "Ada's"}, ada).text)
    begun = Answer(stack, "POST", f"{API}/runs/create", experiment, ada)
    run_id = json.loads(begun.text)["run"]["info"]["run_id"]
    metric = {"run_id": run_id, "key": "val/loss", "value": 0.5, "timestamp": 1, "step": 1}
    assert Answer(stack, "POST", f"{API}/runs/log-metric", metric, bob).status == 403
    assert Answer(stack, "POST", f"{API}/runs/log-metric", metric, ada).status == 200
    read = Answer(stack, "GET", f"{API}/runs/get?run_id={run_id}", user=bob)
    assert json.loads(read.text)["run"]["data"]["metrics"][0]["value"] == 0.5
    assert (
        Answer(stack, "POST", f"{API}/users/create", {"username": "eve", "password": "a long password"}, bob).status
        == 403
    )


@pytest.mark.usefixtures("as_admin")
def test_a_training_arrives_with_its_files_in_the_object_store(stack: Stack, own_data: Path) -> None:
    config = TrainConfig(**tiny(own_data, epochs=1, plot_every=1))
    run_id = run_training(config).run_id
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.info.artifact_uri) == (
        "FINISHED",
        f"mlflow-artifacts:/{run.info.experiment_id}/{run_id}/artifacts",
    )
    stored = {
        each.key: each for each in stack.bucket().objects.filter(Prefix=f"artifacts/{run.info.experiment_id}/{run_id}/")
    }
    names = {key.rpartition(f"{run_id}/artifacts/")[2] for key in stored}
    assert {"config.json", "curves/loss.png", "reliability/val.json", "confusion/val.csv"} <= names
    (place,) = [key for key in stored if key.endswith("/config.json")]
    kept = json.loads(stored[place].get()["Body"].read())
    assert kept["learning_rate"] == config.learning_rate
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json") == kept


def test_a_bucket_that_does_not_exist_sets_the_file_aside_with_advice(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client that writes to S3 itself, without an MLflow server in between."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", stack.objects)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stack.variables["S3_ACCESS_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stack.variables["S3_SECRET_KEY"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    mlflow.MlflowClient().create_experiment("no bucket", artifact_location="s3://missing-bucket/files")
    with (
        pytest.raises(InputError, match="NoSuchBucket.*Create the bucket"),
        tracking.tracked_run("no bucket", "n", {}) as run_id,
    ):
        tracking.log_text("text", "a.txt")
    assert mlflow.get_run(run_id).info.status == "FAILED"
    assert f"MLflow refused 1 record of run {run_id}" in capsys.readouterr().err
    assert mlproject.main(["doctor"]) == 1
    assert "Create the bucket" in capsys.readouterr().err


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_of_mlflow_is_an_error_with_advice(
    stack: Stack,
    own_data: Path,
    password: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
    if password is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    for command in ("train", "tune"):
        fields = tiny(own_data) | ({"storage": "s.journal"} if command == "tune" else {})
        words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        assert mlproject.main([command, *words]) == 1, command
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in printed, command
    resumed = [word for name, value in tiny(own_data, resume="auto").items() for word in (f"--{name}", str(value))]
    for arguments in (["doctor"], ["train", *resumed], ["compare", "--run_ids", "a"], ["report", "--experiment", "a"]):
        assert mlproject.main(arguments) == 1, arguments
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in printed, arguments


def test_a_wrong_password_of_the_studies_database_is_an_error_with_advice(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGPASSWORD", "surely not this")
    for scheme in ("postgresql", "postgresql+psycopg"):
        storage = f"{scheme}://optuna@127.0.0.1:{stack.postgres.port}/optuna"
        assert mlproject.main(["status", "--storage", storage]) == 1
        printed = capsys.readouterr().err
        assert "password authentication failed" in printed
        assert "PGPASSWORD" in printed


def test_a_worker_cannot_open_the_server_s_own_databases(stack: Stack) -> None:
    said = stack.worker()
    for database, role, opened in (
        ("optuna", "optuna", True),
        ("accounts", "optuna", False),
        ("mlflow", "optuna", False),
    ):
        done = subprocess.run(
            [stack.postgres.psql, "--no-psqlrc", "-c", "SELECT 1", database],
            env=said.environment | {"PGUSER": role}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode == 0) is opened, done.stderr
    stranger = {**said.environment, "PGPASSWORD": "wrong", "PGPASSFILE": os.devnull}
    done = subprocess.run(
        [stack.postgres.psql, "-c", "SELECT 1", "optuna"], env=stranger, capture_output=True, text=True
    )
    assert "password authentication failed" in done.stderr


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    processes = [
        process
        for server in stack.servers
        for process in [psutil.Process(server), *psutil.Process(server).children(True)]
    ]
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
