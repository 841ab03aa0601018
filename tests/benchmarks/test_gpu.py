"""The script for GPUs, on the CPU at a tiny size."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_how_to_check_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu"]) == 2
    assert "--device cpu --quick" in capsys.readouterr().err


def test_after_the_given_time_everything_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu", "--device", "cpu", "--quick", "--seconds", "-1", "--output", str(tmp_path / "gpu.json")]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert len(record["left_out"]) == 3 + 12
    assert "- left out: 48 x 48, bfloat16, compiled" in capsys.readouterr().out
