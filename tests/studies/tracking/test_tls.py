"""An MLflow server behind HTTPS, with a certificate authority of the test's own, asked as MLflow's settings say."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest

import mlproject
from segmentation.errors import InputError
from studies import tracking
from tests.faults.server import Door, Server

pytestmark = pytest.mark.slow

AUTHORITY, INSECURE = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"
CLIENT = "MLFLOW_TRACKING_CLIENT_CERT_PATH"


class Doors(NamedTuple):
    """Two ways to the same server."""

    open: str
    """Takes everybody."""
    guarded: str
    """Asks for a certificate of the authority."""
    place: Path
    """Holds `authority.pem`, and `client.pem` with its key."""


def openssl(place: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)


def sign(place: Path, name: str) -> None:
    """Make a key and a certificate for loopback, both in one file."""
    new = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-subj", f"/CN={name}")
    openssl(place, "req", *new, "-out", f"{name}.csr")
    (place / "about").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    by = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "about", "-days", "2")
    openssl(place, "x509", "-req", "-in", f"{name}.csr", *by, "-out", f"{name}.crt")
    (place / f"{name}.pem").write_text((place / f"{name}.key").read_text() + (place / f"{name}.crt").read_text())


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    place = tmp_path_factory.mktemp("tls")
    new = ("-newkey", "rsa:2048", "-nodes", "-keyout", "authority.key", "-subj", "/CN=ours", "-days", "2")
    openssl(place, "req", "-x509", *new, "-out", "authority.pem")
    for name in ("server", "client"):
        sign(place, name)
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2)]
    for context in contexts:
        context.load_cert_chain(place / "server.pem")
    contexts[1].load_verify_locations(place / "authority.pem")
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    with Server(place / "server") as server, Door(server, contexts[0]) as door, Door(server, contexts[1]) as guarded:
        yield Doors(door.uri, guarded.uri, place)


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (AUTHORITY, INSECURE, CLIENT, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def record() -> str:
    """Log a run; return its status."""
    with tracking.tracked_run("tls", "n", {}) as run_id:
        tracking.log_metrics({"val/loss": 0.5})
        tracking.log_text("kept", "a.txt")
    run = mlflow.get_run(run_id)
    assert run.data.metrics["val/loss"] == 0.5
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/a.txt") == "kept"
    return str(run.info.status)


def test_the_authority_in_mlflow_s_setting_is_trusted(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", doors.open)
    monkeypatch.setenv(AUTHORITY, str(doors.place / "authority.pem"))
    assert record() == "FINISHED"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_mlflow_s_setting_accepts_any_certificate(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", doors.open)
    monkeypatch.setenv(INSECURE, "true")
    assert record() == "FINISHED"


def test_a_server_may_ask_for_a_certificate(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", doors.guarded)
    monkeypatch.setenv(AUTHORITY, str(doors.place / "authority.pem"))
    with pytest.raises(InputError, match=CLIENT):
        tracking.check_store()
    monkeypatch.setenv(CLIENT, str(doors.place / "client.pem"))
    assert record() == "FINISHED"


def test_a_failed_connection_names_the_setting(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", doors.open)
    with pytest.raises(InputError, match=f"secure connection fails.*certificate verify failed.*{AUTHORITY}"):
        tracking.check_store()
    assert mlproject.main(["evaluate", "--model_uri", "x"]) == 1
    assert AUTHORITY in capsys.readouterr().err
    monkeypatch.setenv(AUTHORITY, str(doors.place / "missing.pem"))
    with pytest.raises(InputError, match="missing.pem"):
        tracking.check_store()
    monkeypatch.setenv(INSECURE, "true")
    with pytest.raises(InputError, match="must not be set"):
        tracking.check_store()
