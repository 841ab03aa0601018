"""A real PostgreSQL server on loopback, and the smallest trainings that a study can make."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server that trusts whoever comes from this machine."""
    with postgres_server() as (address, _):
        yield address


@contextmanager
def postgres_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """A server's address, and what stops it."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # it refuses to run as root
    shutil.chown(place, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(command, user=user, cwd=place, check=True, stdout=subprocess.DEVNULL)

    def stop() -> None:
        if (place / "data/postmaster.pid").exists():
            run(f"{programs}/pg_ctl", "-D", f"{place}/data", "-m", "immediate", "stop")

    run(f"{programs}/initdb", "-D", f"{place}/data", "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    run(f"{programs}/pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log", "-o", options, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", stop
    finally:
        stop()
        shutil.rmtree(place)


def tiny(root: Path, **more: Any) -> dict[str, Any]:
    """Fields of a study whose trainings take a second or two."""
    return {
        "dataset": "folder", "data_dir": str(root), "resize": 32, "crop": 32, "model": "lraspp_mobilenet_v3_large",
        "batch_norm_momentum": 0.1, "epochs": 4, "batch_size": 4, "device": "cpu", "examples": 0, "plot_every": 100,
        "log_model": False, "experiment": "studies",
    } | more  # fmt: skip
