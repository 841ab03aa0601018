"""A real MLflow server on loopback that can be stopped and started, and a faulty proxy in front of it."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

DROPPED = ("host", "transfer-encoding")  # `requests` sends an empty file as chunks

Fault = Literal["none", "error", "slow", "no files", "lost answers", "hang", "too large"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """An MLflow server with everything in one folder."""

    def __init__(self, place: Path) -> None:
        self.place, self.port = place, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.place.mkdir(parents=True, exist_ok=True)
        if "EMPTY_STORE" in os.environ and not (self.place / "server.db").exists():  # making the tables takes seconds
            shutil.copy(os.environ["EMPTY_STORE"], self.place / "server.db")
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.place / 'server.db'}",
            "--artifacts-destination", str(self.place / "artifacts"),
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.place / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        for _ in range(400):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.place / "server.log").read_text()
                time.sleep(0.25)
        raise AssertionError("the server does not answer")

    def stop(self) -> None:
        """Kill the server, as a power failure does."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait(20)
            self._process = None


class Door:
    """A proxy that forwards requests to a server, or disturbs them as `fault` says."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        self.fault: Fault = "none"
        self.too_large = ""
        """Part of the path of files that are refused as too large."""
        self.turned_away = 0
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def handle_request(self) -> None:
                if door.fault == "hang":
                    door.turned_away += 1
                    while door.fault == "hang":
                        time.sleep(0.05)
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_file = "mlflow-artifacts" in self.path
                if door.fault == "too large" and is_file and door.too_large in self.path:
                    door.turned_away += 1
                    self.send_error(413)
                    return
                if door.fault == "error" or (door.fault == "no files" and is_file):
                    door.turned_away += 1
                    self.send_error(500)
                    return
                if door.fault == "slow":
                    door.turned_away += 1
                    time.sleep(1.0)
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in DROPPED}
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                    if door.fault == "lost answers" and self.command != "GET":
                        door.turned_away += 1
                        self.send_error(502)
                        return
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    door.turned_away += 1
                    self.send_error(503)
                finally:
                    connection.close()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http{'s' if tls else ''}://127.0.0.1:{self._http.server_port}"
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    def __enter__(self) -> "Door":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault = "none"
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
