"""The rules of the house, held by tests."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from segmentation import config
from segmentation.config import Dataset
from segmentation.data import DATASETS
from segmentation.models.segmenter import NETWORKS
from studies.entry_points import NAMES
from studies.entry_points import entry_point as loaded
from tests.conftest import PROJECT

MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text())
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PACKAGES = ("segmentation", "studies")


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    files = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")] + [PROJECT / "mlproject.py"]
    return {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_imports_run_one_way() -> None:
    for name, path in modules().items():
        if name.startswith("segmentation"):
            assert not tops(path) & {"mlflow", "optuna", "studies", "mlproject"}, name
        if name.startswith("studies"):
            assert "mlproject" not in tops(path), name


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    graph = {name: {found for found in imports(path) if found in known} - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


ORDER = {
    "segmentation": (
        "errors metrics", "fields system", "io", "classes config devices", "data scoring", "calibration inspection",
        "models", "plots", "prediction training",
    ),
    "studies": (
        "config", "base", "tracking", "models", "scores", "report", "inspection", "runs", "search", "maintenance",
        "entry_points",
    ),
}  # fmt: skip
"""Parts of each package, lowest first: a part imports only parts of earlier groups, and its own modules."""


@pytest.mark.parametrize("package", PACKAGES)
def test_parts_import_only_lower_parts(package: str) -> None:
    level = {part: number for number, group in enumerate(ORDER[package]) for part in group.split()}
    known = modules()
    assert {name.split(".")[1] for name in known if name.startswith(f"{package}.")} == level.keys()
    for name, path in known.items():
        if not name.startswith(f"{package}."):
            continue
        part = name.split(".")[1]
        others = {found.split(".")[1] for found in imports(path) & known.keys() if found.startswith(f"{package}.")} - {
            part
        }
        assert all(level[other] < level[part] for other in others), f"{name} imports {others}"


WRITES = re.compile("(log|set|start|end|create|update|delete|restore|rename|copy|register|transition|finalize)_")
"""Beginnings of the names of MLflow's functions and methods that write."""


def test_only_tracking_writes_to_mlflow() -> None:
    readers = {
        name for name, path in modules().items()
        if "mlflow" in tops(path) and not name.startswith("studies.tracking")
    }  # fmt: skip
    assert readers <= {
        "studies.base.errors",
        "studies.models.flavor",
        "studies.models.loading",
        "studies.models.served",
        "studies.report.collect",
        "studies.scores.stored",
    }
    for reader in readers:
        for node in ast.walk(ast.parse(modules()[reader].read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert not WRITES.match(node.func.attr), f"{reader}, line {node.lineno}: {node.func.attr}"


def test_only_the_search_knows_optuna() -> None:
    for name, path in modules().items():
        assert "optuna" not in tops(path) or name.startswith("studies.search"), name


def test_mlproject_is_a_module_and_not_a_folder() -> None:
    """MLflow takes any entry whose name is `mlproject` in whatever case for its project file."""
    names = [path.name for path in PROJECT.iterdir() if path.name.lower() == "mlproject"]
    assert names == ["MLproject"]
    assert (PROJECT / "mlproject.py").is_file()


def test_names_of_data_sets_and_networks_agree_with_their_registries() -> None:
    assert list(Dataset.__args__) == list(DATASETS)
    assert list(config.NETWORKS) == list(NETWORKS)


@pytest.mark.parametrize("entry_point", MLPROJECT["entry_points"])
def test_entry_points_repeat_the_defaults_of_their_configuration(entry_point: str) -> None:
    declared = MLPROJECT["entry_points"][entry_point]
    config_fields = {field.name: field for field in fields(loaded(entry_point).Config)}
    for name, parameter in declared["parameters"].items():
        assert name in config_fields, f"{entry_point} declares {name}, which no field is called"
        kind = parameter if isinstance(parameter, str) else parameter["type"]
        assert kind in ("string", "float"), f"{name}: MLflow itself refuses a missing path and leaves the run RUNNING"
        if isinstance(parameter, dict):
            default = config_fields[name].default
            assert parameter["default"] == ("none" if default is None else default), name
        assert f"--{name} {{{name}}}" in declared["command"]
    assert declared["command"].startswith(f"python mlproject.py {entry_point} ")
    assert set(re.findall(r"{(\w+)}", declared["command"])) == set(declared["parameters"])


def test_every_command_has_an_entry_point() -> None:
    assert set(MLPROJECT["entry_points"]) == set(NAMES)


def test_every_field_is_explained() -> None:
    for name in NAMES:
        tree = ast.parse("".join((PROJECT / each / "config.py").read_text() for each in PACKAGES))
        explained = {
            before.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for before, after in zip(node.body, node.body[1:], strict=False)
            if isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        }
        assert {field.name for field in fields(loaded(name).Config)} <= explained


def test_conda_yaml_pins_every_dependency_inside_pyproject_s_range() -> None:
    environment = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    assert [entry for entry in environment if isinstance(entry, str)] == ["python=3.11", "pip"]
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    pinned = {requirement.name: requirement for requirement in map(Requirement, pip)}
    wanted = {requirement.name: requirement for requirement in map(Requirement, PYPROJECT["project"]["dependencies"])}
    assert pinned.keys() == wanted.keys()
    for name, requirement in pinned.items():
        (exact,) = requirement.specifier
        assert exact.operator == "=="
        assert wanted[name].specifier.contains(exact.version), name


def test_what_is_installed_fits_pyproject() -> None:
    for requirement in map(Requirement, PYPROJECT["project"]["dependencies"]):
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_pyproject_lists_every_package() -> None:
    packages = {
        ".".join(path.parent.relative_to(PROJECT).parts)
        for package in PACKAGES
        for path in (PROJECT / package).rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages


def test_the_pages_name_real_fields() -> None:
    everything = {field.name for name in NAMES for field in fields(loaded(name).Config)}
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))):
        text = page.read_text()
        assert set(re.findall(r"-P (\w+)=", text)) - {"field"} <= everything, page
        if page.name in ("README.md", "train.md", "your-data.md", "commands.md"):
            for shown in re.findall(r"`(\w+=[^`]*)`", text):
                assert set(re.findall(r"(\w+)=", shown)) <= everything, (page, shown)


def test_the_page_of_commands_shows_each_with_its_parameters_and_their_defaults() -> None:
    page = (PROJECT / "docs/commands.md").read_text()
    for entry_point in NAMES:
        (row,) = re.findall(rf"^\| `{entry_point}` \|.*$", page, re.MULTILINE)
        config_fields = {field.name: field for field in fields(loaded(entry_point).Config)}
        told = dict(re.findall(r"`(\w+)` \(([^)]*)\)", row))
        assert told.keys() == MLPROJECT["entry_points"][entry_point]["parameters"].keys()
        for name, value in told.items():
            default = config_fields[name].default
            spelled = {MISSING: "required", None: "none"}
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert value == spelled.get(default, shown), name


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", page.read_text()):
            path = target[0] or target[1]
            if path and not path.startswith("http"):
                assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_the_result_in_the_readme_is_that_of_the_report_on_voc() -> None:
    report = (PROJECT / "docs/report-on-voc/report.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    rows = re.findall(r"^\| ([A-D]): .+?((?: \| \d\.\d{4} \[.+?\]){4}) \|$", (PROJECT / "README.md").read_text(), re.M)
    assert [letter for letter, _ in rows] == ["A", "B", "C", "D"]
    for letter, metrics in rows:
        assert re.search(rf"^\| {letter} \| .+{re.escape(metrics)} \|$", report, re.M), letter


def test_doctor_reads_checkpoints_without_torchvision() -> None:
    """Importing it takes as long as importing torch."""
    known, seen, left = modules(), set(), ["segmentation.training.checkpoints"]
    while left:
        name = left.pop()
        seen.add(name)
        assert "torchvision" not in tops(known[name]), name
        left += imports(known[name]) & known.keys() - seen
    assert "segmentation.io.pickled" in seen


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, mlproject\n"
        "try: mlproject.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'mlflow', 'numpy', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_makefile_documents_its_targets() -> None:
    listed = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert {"install", "run", "test", "lint", "ui", "dashboard", "bench"} <= {
        line.split()[0] for line in listed.splitlines()
    }
