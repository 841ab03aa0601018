"""What of MLflow and Optuna is used that is no part of their interface: the test that says which name has gone."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

MONITOR = "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor"
SAMPLES = "studies/tracking/system_metrics.py"
PRIVATE = {
    "optuna.study.Study._storage": "studies/search/storage.py",
    **{f"{MONITOR}.{name}": SAMPLES for name in ("monitors", "_metrics_prefix", "_logging_step", "_shutdown_event")},
}
"""Each with the file that uses it. A newer MLflow or Optuna that lacks one needs a change there."""
UNDOCUMENTED = {
    "mlflow.tracking.context.registry": "resolve_tags",
    "mlflow.utils.credentials": "get_default_host_creds",
    "mlflow.models.model": "MLMODEL_FILE_NAME",
    "mlflow.data.code_dataset_source": "CodeDatasetSource",
    "mlflow.system_metrics.system_metrics_monitor": "SystemMetricsMonitor",
}
"""Names without an underscore that MLflow's pages do not list."""


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_is_still_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    owner = module.rpartition(".")[2]
    if owner[0].isupper():
        found = getattr(__import__(module.rpartition(".")[0], fromlist=[owner]), owner)
        source = inspect.getsource(found)
        assert re.search(rf"self\.{attribute}\b", source), f"{name} has gone: {PRIVATE[name]} uses it"
    else:
        found = __import__(module, fromlist=[attribute])
        assert hasattr(found, attribute), f"{name} has gone: {PRIVATE[name]} uses it"
    assert re.search(rf"\b{attribute}\b", (PROJECT / PRIVATE[name]).read_text()), f"{PRIVATE[name]} has no {name} now"


@pytest.mark.parametrize("module", UNDOCUMENTED)
def test_an_undocumented_name_is_still_there(module: str) -> None:
    name = UNDOCUMENTED[module]
    assert hasattr(__import__(module, fromlist=[name]), name), f"{module}.{name} has gone"


def test_no_other_private_name_is_imported_or_called() -> None:
    known = {name.rpartition(".")[2] for name in PRIVATE} | {"_replace", "_asdict"}  # the last, of named tuples
    for folder in ("studies", "segmentation"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for name in private_names(path):
                assert name in known, f"{path.relative_to(PROJECT)} uses {name}: list it here, or use a public name"


def private_names(path: Path) -> set[str]:
    """Imported from MLflow or Optuna with an underscore, or reached through a variable in a file that imports them."""
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    theirs = [node for node in imports if str(node.module).partition(".")[0] in ("mlflow", "optuna")]
    found = {alias.name for node in theirs for alias in node.names if alias.name.startswith("_")}
    if not theirs:
        return found
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {
        target.attr
        for node in ast.walk(tree)
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
    }
    return found | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr not in own
    }
