"""What the process's own libraries say of the settings."""

import os
import subprocess
import sys

import pytest

from segmentation.errors import InputError
from segmentation.system import runtime
from tests.conftest import PROJECT

AS_A_COMMAND = """
import mlproject
from studies.entry_points import sync
sync.run = lambda config: __import__("torch")
assert mlproject.main(["sync"]) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("said", "shown"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
    ids=["nothing", "count", "policy"],
)
def test_a_command_tells_openmp_how_long_to_wait_unless_the_user_has(said: dict[str, str], shown: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", AS_A_COMMAND], cwd=PROJECT, env=environment | said | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{shown}'" in done.stderr


FAULTS = """
import resource, numpy as np
from segmentation.system.runtime import keep_freed_memory
kept = keep_freed_memory()
for turn in range(12):
    np.ones(8_000_000)
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of Linux's C library")
def test_memory_that_was_freed_is_not_cleared_anew() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=PROJECT, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "True":
        assert int(faults) < 1000, "ten arrays of 64 MB have 156,000 pages of 4 kB"


@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_a_system_that_is_not_supported_is_told_at_once(platform: str) -> None:
    with pytest.raises(InputError, match="runs on Linux and macOS, not on Windows itself: start it in WSL 2"):
        runtime.check_system(platform)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_system_that_is_supported_is(platform: str) -> None:
    runtime.check_system(platform)


def test_the_command_line_refuses_windows_before_anything_else() -> None:
    """In a process whose Python says that it is on Windows."""
    program = "import sys; sys.platform = 'win32'; import mlproject; sys.exit(mlproject.main(['train']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this program runs on Linux and macOS")
    assert len(done.stderr.splitlines()) == 1
