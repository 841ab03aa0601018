"""Lists the names outside the public interfaces of MLflow and Optuna that the project uses; fails if one is gone."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PRIVATE = {
    "optuna.study.Study._storage": "studies/search/storage.py",
    "optuna.trial.FrozenTrial._trial_id": "studies/search/retries.py",
    "optuna.study.Study._study_id": "studies/search/constant_model.py",
}
"""Each with the file that uses it. If a newer MLflow or Optuna lacks one, that file must change."""
UNDOCUMENTED = {
    "mlflow.tracking.context.registry": "resolve_tags",
    "mlflow.utils.credentials": "get_default_host_creds",
    "mlflow.models.model": "MLMODEL_FILE_NAME",
    "mlflow.system_metrics.system_metrics_monitor": "SystemMetricsMonitor",
}
"""Names without an underscore that MLflow's documentation does not list."""


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_is_still_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    owner = module.rpartition(".")[2]
    if owner[0].isupper():
        found = getattr(__import__(module.rpartition(".")[0], fromlist=[owner]), owner)
        source = inspect.getsource(found)
        assert re.search(rf"self\.{attribute}\b", source), f"{name} is gone: {PRIVATE[name]} uses it"
    else:
        found = __import__(module, fromlist=[attribute])
        assert hasattr(found, attribute), f"{name} is gone: {PRIVATE[name]} uses it"
    assert re.search(rf"\b{attribute}\b", (PROJECT / PRIVATE[name]).read_text()), f"{PRIVATE[name]} does not use it"


@pytest.mark.parametrize("module", UNDOCUMENTED)
def test_an_undocumented_name_is_still_there(module: str) -> None:
    name = UNDOCUMENTED[module]
    assert hasattr(__import__(module, fromlist=[name]), name), f"{module}.{name} is gone"


def test_no_other_private_name_is_imported_or_called() -> None:
    known = {name.rpartition(".")[2] for name in PRIVATE} | {"_replace", "_asdict"}  # the last, of named tuples
    for folder in ("studies", "segmentation"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for name in private_names(path):
                assert name in known, f"{path.relative_to(PROJECT)} uses {name}: list it here, or use a public name"


def private_names(path: Path) -> set[str]:
    """Return the names with an underscore that a file imports from MLflow or Optuna, or uses as an attribute.

    Attributes count in files that import from them, unless the file defines the name itself.
    """
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    library_imports = [node for node in imports if str(node.module).partition(".")[0] in ("mlflow", "optuna")]
    found = {alias.name for node in library_imports for alias in node.names if alias.name.startswith("_")}
    if not library_imports:
        return found
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {
        target.attr
        for node in ast.walk(tree)
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
    }
    return found | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr) and node.attr not in defined
    }
