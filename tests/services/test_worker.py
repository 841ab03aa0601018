"""A worker as in its container: an unprivileged user, a read-only project folder, and a volume."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.conftest import PROJECT, write_own_data
from tests.services import compose
from tests.services.stack import Stack, environment
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow

UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner,-chown"]
"""Drops root's privileges, so that file modes apply."""


class Container(NamedTuple):
    """The folders of a worker; `project` and `data` belong to root."""

    project: Path
    kept: Path
    data: Path
    home: Path


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    found = Container(*(tmp_path / "container" / name for name in Container._fields))
    for folder in found:
        folder.mkdir(parents=True)
    for line in re.findall(r"^COPY (.+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE):
        for name in line.split()[:-1]:
            source, target = PROJECT / name, found.project / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    write_own_data(found.data)
    kept = [file for folder in (found.project, found.data) for file in (folder, *folder.rglob("*"))]
    for file in kept:
        if os.getuid() == 0:
            shutil.chown(file, "nobody")
        file.chmod(0o555 if file.is_dir() else 0o444)
    yield found
    for file in kept:
        file.chmod(0o755)


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def test_a_worker_records_everything_on_the_volume_and_sends_it(stack: Stack, container: Container) -> None:
    fields = tiny(Path("/data/own"), epochs=1, study_name="container", n_trials=1, model="lraspp_mobilenet_v3_large")
    del fields["data_dir"]
    tune = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in fields.items())
    said = compose.service("worker", stack.variables | {"TUNE": tune})
    places = {"/kept": container.kept, "/data": container.data / "own"}

    def here(text: str) -> str:
        root = re.match(r"/\w+", text)
        return text.replace(root[0], str(places[root[0]]), 1) if root and root[0] in places else text

    assert said.command[0] == "python"
    env = environment(said, {
        "HOME": str(container.home), "PGHOST": "127.0.0.1", "PGPORT": str(stack.postgres.port),
        "MLFLOW_TRACKING_URI": stack.mlflow,
    })  # fmt: skip
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):  # the container keeps these on its volume
        env.pop(name, None)
    before = files(container.project)
    user = UNPRIVILEGED if os.getuid() == 0 else []
    denied = subprocess.run([*user, "touch", str(container.project / "unsent")], capture_output=True, text=True)
    assert "Permission denied" in denied.stderr
    command = [*user, sys.executable, *map(here, said.command[1:])]
    done = subprocess.run(
        command, env={name: here(value) for name, value in env.items()},
        cwd=container.project, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 complete, 0 pruned, 0 failed" in done.stdout
    assert files(container.project) == before
    assert {"cache", "checkpoints", "unsent"} <= {file.name for file in container.kept.iterdir()}
    assert not list((container.kept / "unsent").iterdir()), "all was sent"


def test_a_worker_is_started_again_a_limited_number_of_times_and_sees_no_password_file() -> None:
    worker = yaml.safe_load(compose.FILE.read_text())["services"]["worker"]
    assert re.fullmatch(r"on-failure:\d", worker["restart"])
    for volume in worker["volumes"]:
        assert not compose.filled(volume, {}).startswith((".", "/")), "no folder of the host by default"
    ignored = [(PROJECT / name).read_text().split() for name in (".gitignore", ".dockerignore")]
    assert all(".env" in words for words in ignored)
    copied = re.findall(r"^COPY (.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert not {".", "./", "*"} & {name for line in copied for name in line.split()}
