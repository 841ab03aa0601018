"""An entry that the server refuses for good raises `RefusedError`; any other error is retried."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from studies.tracking.journal import RefusedError
from studies.tracking.sending import sender


class Proxy:
    """Answers every request with a status and a JSON body."""

    def __init__(self) -> None:
        self.status, self.body = 200, {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                content = json.dumps(proxy.body).encode()
                self.send_response(proxy.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"

    status: int
    body: dict[str, Any]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    found = Proxy()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "is_final"),
    [
        (413, {"message": "Request Too Long"}, True),
        (413, {"error": "Payload Too Large", "status": 413}, True),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}, True),
        (403, {"message": "Forbidden"}, False),
        (500, {"message": "Internal Server Error"}, False),
        (500, {"error_code": "INTERNAL_ERROR", "message": "no"}, False),
    ],
)
def test_a_json_response_is_judged_by_its_status(
    proxy: Proxy, tmp_path: Path, status: int, body: dict[str, Any], is_final: bool
) -> None:
    """MLflow drops the status of a response with a JSON body; a proxy's body has no `error_code` of MLflow's."""
    proxy.status, proxy.body = status, body
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is the point
        sender("a" * 32)({"what": "tags", "values": {"name": "value"}}, tmp_path)
    assert isinstance(caught.value, RefusedError) is is_final
    if status == 413:
        assert "size limit" in str(caught.value)
