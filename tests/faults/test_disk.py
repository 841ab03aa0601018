"""The disk is full while a checkpoint is written: the last checkpoint is intact, and the run can be resumed."""

import resource
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from segmentation.training import checkpoints
from tests.conftest import PROJECT
from tests.faults.training import words

pytestmark = pytest.mark.slow


def test_a_full_disk_ends_the_run_with_the_reason_and_the_last_checkpoint_whole(own_data: Path) -> None:
    """Files are limited to 16 MB, as if the disk were full: a checkpoint has 25 MB."""
    arguments = words(data_dir=own_data, epochs=500, log_model=False, plot_every=0, model="lraspp_mobilenet_v3_large")
    with subprocess.Popen(
        [sys.executable, str(PROJECT / "mlproject.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        run_id = next(line for line in process.stdout if line.startswith("Run ")).split()[1].rstrip(":")
        while "epoch 2/" not in process.stdout.readline():
            pass
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16 * 2**20, 16 * 2**20))
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "could not be written" in errors
    assert "the previous checkpoint is intact" in errors
    assert f"--resume {run_id}" in said
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert "could not be written" in run.data.tags["status_reason"]
    folder = Path("checkpoints", run_id)
    kept = checkpoints.load(folder / "last.pt")
    assert kept.epoch >= 1  # a thread writes that of epoch 2 during epoch 3
    assert len(kept.history) == kept.epoch
    assert sorted(file.name for file in folder.iterdir()) == ["best.pt", "last.pt"]
