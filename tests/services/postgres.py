"""A real PostgreSQL server on loopback."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest


class Postgres(NamedTuple):
    """A running server."""

    port: int
    psql: str
    stop: Callable[[], None]

    @property
    def address(self) -> str:
        """Return the address of its default database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgres_server(password: str | None = None, connections: int = 100) -> Iterator[Postgres]:
    """Start a server, and stop it afterwards.

    Args:
        password: of its user `postgres`; None accepts every connection from this machine.
        connections: maximum at a time.
    """
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    place, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # it refuses to run as root

    def run(*command: str) -> None:
        subprocess.run(command, user=user, cwd=place, check=True, stdout=subprocess.DEVNULL)

    def stop() -> None:
        if (place / "data/postmaster.pid").exists():
            run(f"{found}/pg_ctl", "-D", f"{place}/data", "-m", "immediate", "stop")

    asking = "--auth=trust"
    if password is not None:
        (place / "password").write_text(password)
        asking = "--auth=scram-sha-256"
    shutil.chown(place, user)
    given = [] if password is None else [f"--pwfile={place}/password"]
    run(f"{found}/initdb", "-D", f"{place}/data", "-U", "postgres", asking, *given, "--no-sync")
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off "
        f"-c max_connections={connections}"
    )
    run(f"{found}/pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log", "-o", options, "start")
    try:
        yield Postgres(port, f"{found}/psql", stop)
    finally:
        stop()
        shutil.rmtree(place)
