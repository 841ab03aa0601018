"""What compose.yaml asks for, and what it must not hold."""

import re
import tomllib

import pytest
import yaml

import mlproject
from studies.config import TuneConfig
from tests.conftest import PROJECT
from tests.services import compose
from tests.services.stack import env_file

pytestmark = pytest.mark.slow

SAID = yaml.safe_load(compose.FILE.read_text())
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY")


def test_ports_are_published_on_loopback_alone() -> None:
    published = {name: said["ports"] for name, said in SAID["services"].items() if "ports" in said}
    assert published == {"postgres": ["127.0.0.1:5432:5432"], "mlflow": ["127.0.0.1:5000:5000"]}


def test_it_holds_no_password_and_refuses_to_begin_without_one(tmp_path: pytest.TempPathFactory) -> None:
    secrets = {
        (name, key): value
        for name, said in SAID["services"].items()
        for key, value in said["environment"].items()
        if SECRET.search(key)
    }
    assert len(secrets) == 14
    for place, value in secrets.items():
        assert re.fullmatch(r"\$\{\w+:\?set it in \.env, see docs/scale\.md\}", value), place
    for name in SAID["services"]:
        with pytest.raises(LookupError, match=r"set it in \.env"):
            compose.service(name, {})
    assert not (PROJECT / ".env").exists() or ".env" in (PROJECT / ".gitignore").read_text().split()


def test_the_documented_env_file_names_all_that_is_wanted(tmp_path: pytest.TempPathFactory) -> None:
    wanted = {found[1] for text in compose.texts(SAID) for found in re.findall(r"(\$\{)(\w+):\?", text)}
    variables = env_file(tmp_path)
    assert variables.keys() == wanted
    assert len(set(variables.values())) == len(wanted)
    assert min(map(len, variables.values())) >= 32


def test_what_services_mount_depend_on_and_read_is_there() -> None:
    for name, said in SAID["services"].items():
        for config in said.get("configs", []):
            assert config["source"] in SAID["configs"], name
        for volume in said.get("volumes", []):
            source = volume.rpartition(":/")[0] if "$" in volume else volume.partition(":")[0]
            assert "$" in source or source in SAID["volumes"], name
        assert set(said.get("depends_on", [])) <= SAID["services"].keys(), name
        if "build" in said:
            assert f"AS {said['build']['target']}\n" in (PROJECT / "Dockerfile").read_text()


def test_a_worker_s_command_is_one_that_the_command_line_accepts(tmp_path: pytest.TempPathFactory) -> None:
    python, door, command, *fields = compose.service("worker", env_file(tmp_path)).command
    assert (python, door, command) == ("python", "mlproject.py", "tune")
    config = mlproject.parse(TuneConfig, fields, "tune")
    assert config.storage == "postgresql:///optuna"
    assert config.checkpoint_dir.startswith("/kept/")
    assert config.dataset == "shapes"


def test_the_server_s_image_has_what_the_extra_says() -> None:
    extra = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    (installed,) = [line for line in (PROJECT / "Dockerfile").read_text().splitlines() if "mlflow[auth]" in line]
    for requirement in extra:
        assert f"'{requirement}'" in installed


def test_our_own_servers_are_told_to_listen_on_loopback() -> None:
    """Everything that the Makefile and the documentation start and that listens."""
    starts = re.compile(r"^[^#`]*\b(mlflow server|mlflow ui|mlflow models serve|optuna-dashboard)\b.*", re.MULTILINE)
    pages = [PROJECT / "Makefile", PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    found = [line[0] for page in pages for line in starts.finditer(page.read_text().replace("\\\n", " "))]
    assert len(found) >= 3
    for line in found:
        host = re.search(r"--host[ =](\S+)", line)
        by_default = re.search(r"mlflow (ui|models serve)", line)  # both take 127.0.0.1 unless told otherwise
        assert (host and host[1] == "127.0.0.1") or (by_default and not host), line
