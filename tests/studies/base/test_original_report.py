"""The original report's figures, against the account of them that lies beside the project."""

import re

import pytest

from studies.base import original_report as published
from tests.conftest import PROJECT

REPORT = PROJECT.parent / "shared" / "reference" / "original-report.md"


@pytest.mark.skipif(not REPORT.is_file(), reason=f"the account of the original report is not at {REPORT}")
def test_the_grid_is_copied_right() -> None:
    rows = re.findall(
        r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", REPORT.read_text(), re.MULTILINE
    )
    assert [tuple(map(float, row)) for row in rows] == [tuple(cell) for cell in published.GRID]


def test_a_cell_is_found_by_its_setting() -> None:
    cell = published.grid_cell(learning_rate=0.05, weight_decay=0.01)
    assert cell is not None
    assert (cell.val_loss, cell.val_accuracy) == (1.417, 0.678)
    assert published.grid_cell(0.02, 0.0) is None
