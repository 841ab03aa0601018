"""What `make` says before it installs something."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.mark.parametrize("target", ["install", "dashboard", "test", "lint", "bench", "audit"])
def test_every_installation_says_what_it_does_and_how_long_it_may_take(target: str, tmp_path: Path) -> None:
    command = ["make", "--dry-run", "-f", str(PROJECT / "Makefile"), f"VENV={tmp_path / 'venv'}", target]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    pip = [index for index, line in enumerate(shown) if " pip install " in line]
    assert len(pip) == (1 if target == "install" else 2)
    for index in pip:
        assert shown[index - 1].startswith("echo 'Installing ")
        assert "minute" in shown[index - 1]
