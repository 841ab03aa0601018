"""The table of metrics, and that it is the only list of their names."""

import ast
import math
from functools import cache

import pytest

from segmentation.metrics import COMPARED, HEADLINE, METRICS, is_better, of_epoch
from tests.conftest import PROJECT

TABLE, DEFINITIONS = "segmentation/metrics.py", "segmentation/scoring/definitions.py"


@pytest.mark.parametrize(
    ("metric", "value", "than", "better"),
    [
        ("val/loss", 0.1, 0.2, True), ("val/loss", 0.2, 0.1, False), ("val/loss", 0.1, 0.1, False),
        ("val/mean_iou", 0.2, 0.1, True), ("val/ece", 0.2, 0.1, False), ("val/pixel_accuracy", 0.9, 0.8, True),
        ("val/loss", math.nan, 1.0, False), ("val/loss", 1.0, math.nan, True), ("val/loss", math.nan, math.nan, False),
    ],
)  # fmt: skip
def test_which_value_is_better(metric: str, value: float, than: float, better: bool) -> None:
    assert is_better(metric, value, than) is better


def test_metrics_of_an_epoch_have_both_splits_where_training_measures_them() -> None:
    assert of_epoch(("pixel_accuracy", "ece")) == ("train/pixel_accuracy", "val/pixel_accuracy", "val/ece")
    assert set(COMPARED) == set(HEADLINE)
    assert METRICS[COMPARED[0]].calibration


@cache
def parsed() -> dict[str, list[ast.AST]]:
    """Nodes of every module by its path."""
    files = (path for package in ("segmentation", "studies") for path in (PROJECT / package).rglob("*.py"))
    return {path.relative_to(PROJECT).as_posix(): list(ast.walk(ast.parse(path.read_text()))) for path in files}


def lists_of_metrics(nodes: list[ast.AST]) -> list[int]:
    """Lines of the tuples, lists, sets and dictionaries that consist of the names of three or more metrics."""
    lines = []
    for node in nodes:
        items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        names = {
            item.value.rpartition("/")[2]
            for item in items
            if isinstance(item, ast.Constant) and isinstance(item.value, str)
        }
        if len(names) >= 3 and names <= METRICS.keys():
            lines.append(node.lineno)
    return lines


def test_no_other_module_lists_metric_names() -> None:
    found = {path: lines for path, nodes in parsed().items() if (lines := lists_of_metrics(nodes))}
    assert found.keys() == {TABLE, DEFINITIONS}, found


def test_a_metric_is_named_only_where_it_is_listed_and_defined() -> None:
    """A new metric needs entries in `metrics.py`, `definitions.py` (formula) and `softmax_counts.py` (counts)."""
    for name in ("debiased_rmsce", "brier_resolution", "aurc", "mean_boundary_iou"):
        modules = {path for path, nodes in parsed().items() for node in nodes if getattr(node, "value", None) == name}
        assert modules == {TABLE, DEFINITIONS}, name
