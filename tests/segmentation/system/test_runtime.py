import os
import subprocess
import sys

import pytest

from segmentation.errors import InputError
from segmentation.system import runtime
from tests.conftest import PROJECT

COMMAND_THAT_IMPORTS_TORCH = """
import mlproject
from studies.entry_points import sync
sync.run = lambda config: __import__("torch")
assert mlproject.main(["sync"]) == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch uses GNU OpenMP on Linux only")
def test_a_command_sets_the_spin_count_before_openmp_reads_it() -> None:
    """OpenMP prints its settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND_THAT_IMPORTS_TORCH], cwd=PROJECT, capture_output=True, text=True, check=True,
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{runtime.SPIN_COUNT}'" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_openmp_settings_of_the_user_are_kept(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: value})
    runtime.wait_briefly()
    assert os.environ == {name: value}


FAULTS = """
import resource, numpy as np
from segmentation.system.runtime import keep_freed_memory
is_kept = keep_freed_memory()
for turn in range(12):
    np.ones(8_000_000)
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(is_kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting exists in glibc only")
def test_freed_memory_is_reused_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=PROJECT, capture_output=True, text=True, check=True)
    is_kept, faults = done.stdout.split()
    if is_kept == "True":
        assert int(faults) < 1000, "ten arrays of 64 MB have 156,000 pages of 4 kB"


ENDS = """
import atexit
from segmentation.system.runtime import end_without_collection
class Node:
    def __del__(self):
        print("collected")
if {}:
    end_without_collection()
atexit.register(print, "left")
node = Node()
node.itself = node
"""


@pytest.mark.parametrize(("ends_without", "printed"), [(True, "left"), (False, "left collected")])
def test_a_process_ends_without_collecting_garbage(ends_without: bool, printed: str) -> None:
    """Exit handlers still run."""
    command = [sys.executable, "-c", ENDS.format(ends_without)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == printed.split()


@pytest.mark.parametrize("platform", ["win32", "cygwin", "linux", "darwin"])
def test_only_linux_and_macos_are_supported(platform: str) -> None:
    if platform in ("linux", "darwin"):
        runtime.check_system(platform)
        return
    with pytest.raises(InputError, match="runs on Linux and macOS, not on Windows: .* WSL 2"):
        runtime.check_system(platform)


def test_the_command_line_refuses_windows_first() -> None:
    """In a process whose Python reports Windows."""
    program = "import sys; sys.platform = 'win32'; import mlproject; sys.exit(mlproject.main(['train']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this program runs on Linux and macOS")
    assert len(done.stderr.splitlines()) == 1
