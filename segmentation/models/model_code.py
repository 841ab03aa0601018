"""`ModelCode`: the source code of a user's own model, `model=PACKAGE.MODULE:FUNCTION`, which travels with its tensors.

`local_code` reads the module and every local module that it imports. A model is always built from such a copy, also
when it is trained: code that works in training therefore works where the model is loaded. The modules of a copy are
imported under a name of their own, so that models whose modules have equal names do not meet.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from segmentation.errors import InputError, listed

MARK = ":"
"""Character that only the names of own models contain."""
PARAMETERS = ("classes", "channels")
"""Parameters that the function of an own model must have."""
PRETRAINED = "pretrained"
"""Parameter that the function may have: false where trained tensors replace those that the function would load."""
THIS_PROJECT = ("segmentation", "studies", "mlproject")
"""Modules that no copy can contain: a logged model has only a few of their files."""
ALWAYS_THERE = ("torch", "torchvision", "numpy", "PIL", "safetensors", "mlflow")
"""Packages that every logged model requires anyway."""
LARGEST = 2**21
"""Most characters of the source code of a model."""
FILE = re.compile(r"([^\W\d]\w*/)*[^\W\d]\w*\.py")
"""Path of a module in a copy."""
DIVISORS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers that the sides of a network's input may have to be multiples of."""


@dataclass(frozen=True)
class ModelCode:
    """The code of a user's own model."""

    function: str
    """`PACKAGE.MODULE:FUNCTION`."""
    files: Mapping[str, str]
    """Source text of each module, by its path such as `package/module.py`; empty if the package is installed."""
    requirements: tuple[str, ...] = ()
    """Installed packages that the modules import, as `NAME==VERSION`."""
    divisor: int = 1
    """The network takes images whose sides are multiples of this; others are padded."""

    @property
    def checksum(self) -> str:
        """SHA-256 of function, files and requirements, in hexadecimal."""
        content = [self.function, sorted(self.files.items()), list(self.requirements)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def described(self) -> str:
        """Return the files, or the installed packages, as a text."""
        return listed(self.files or self.requirements)

    def is_same(self, other: "ModelCode") -> bool:
        """Return whether another code has the same function and files."""
        return (self.function, dict(self.files)) == (other.function, dict(other.files))

    def as_values(self) -> dict[str, Any]:
        """Return the code as plain values, from which `stored_code` makes it again."""
        return {
            "function": self.function, "files": dict(self.files), "requirements": list(self.requirements),
            "divisor": self.divisor,
        }  # fmt: skip

    def build(self, classes: int, channels: int, pretrained: bool) -> nn.Module:
        """Call the function.

        Args:
            classes: number of output channels.
            channels: number of input channels.
            pretrained: passed to a function that has a parameter of this name.

        Raises:
            InputError: the code does not run, or does not return a module with parameters.
        """
        function = self._function()
        parameters = inspect.signature(function).parameters
        required = [
            name for name, each in parameters.items()
            if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]  # fmt: skip
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        missing = [] if takes_any else [name for name in PARAMETERS if name not in parameters]
        extra = [name for name in required if name not in (*PARAMETERS, PRETRAINED)]
        if missing or extra:
            raise InputError(
                f"model={self.function}: the function has the parameters ({', '.join(parameters)}); it must take "
                f"classes and channels by name, and nothing else without a default"
            )
        values: dict[str, Any] = {"classes": classes, "channels": channels}
        if PRETRAINED in parameters:
            values[PRETRAINED] = pretrained
        try:
            network = function(**values)
        except InputError:
            raise
        except Exception as error:
            called = ", ".join(f"{name}={value}" for name, value in values.items())
            raise self.failed(f"calling it with {called}", error) from error
        if not isinstance(network, nn.Module):
            raise InputError(
                f"model={self.function}: the function returned {type(network).__name__}; it must return a "
                f"torch.nn.Module"
            )
        parameters_of_network = list(network.parameters())
        if not parameters_of_network or any(map(is_lazy, parameters_of_network)):
            what = "has lazy parameters" if parameters_of_network else "has no parameters"
            raise InputError(f"model={self.function}: the returned module {what}; there is nothing to train")
        return network

    def failed(self, doing: str, error: Exception) -> InputError:
        """Return the error that names what the code raised, and the line."""
        files = {self._traced(path): path for path in self.files}
        frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename in files]
        where = f" ({files[frames[-1].filename]}, line {frames[-1].lineno})" if frames else ""
        if isinstance(error, SyntaxError) and error.filename in files:
            where = f" ({files[error.filename]}, line {error.lineno})"
        advice = ""
        if self.files and "__file__" in str(error):
            advice = ". Only .py files are stored with a model: it cannot read files beside its module"
        return InputError(
            f"model={self.function}: {doing} raised {type(error).__name__}: {str(error)[:500]}{where}{advice}"
        )

    def _function(self) -> Callable[..., Any]:
        self.check_requirements()
        module_name, _, name = self.function.partition(MARK)
        imported = f"{self._package}.{module_name}" if self.files else module_name
        known = {each.package for each in sys.meta_path if isinstance(each, _Copies)}
        if self.files and self._package not in known:
            sys.meta_path.append(_Copies(self._package, self.files, self._traced))
        try:
            module = importlib.import_module(imported)
        except InputError:
            raise
        except Exception as error:
            raise self.failed(f"importing {module_name}", error) from error
        found = getattr(module, name, None)
        if not callable(found):
            functions = listed(key for key, value in vars(module).items() if inspect.isfunction(value)) or "none"
            what = "is not a function" if hasattr(module, name) else "does not exist"
            raise InputError(f"model={self.function}: {name} {what} in {module_name}; its functions are {functions}")
        return found

    @property
    def _package(self) -> str:
        """Name under which the modules of this copy are imported."""
        return f"model_code_{self.checksum[:16]}"

    def _traced(self, path: str) -> str:
        """File name of a module in tracebacks."""
        return f"{self._package}/{path}"

    def check_requirements(self) -> None:
        """Raise an `InputError` if a required package is missing; print a note if it has another version."""
        for requirement in self.requirements:
            name, _, wanted = requirement.partition("==")
            try:
                installed = plain_version(metadata.version(name))
            except metadata.PackageNotFoundError:
                raise InputError(f"model={self.function} needs the package {name}: pip install {requirement}") from None
            if installed != wanted:
                print(f"Note: model={self.function} was stored with {requirement}; installed is {installed}.")


def is_own(model: str) -> bool:
    """Return whether `model` names a user's function, not one of torchvision's networks."""
    return MARK in model


def plain_version(version: str) -> str:
    """Return a version without its build (`+cpu`, `+cu128`): PyPI has none."""
    return version.partition("+")[0]


def stored_code(values: Mapping[str, Any]) -> ModelCode:
    """Return the code that `ModelCode.as_values` described.

    Raises:
        ValueError: the values are impossible.
    """
    function, files, requirements = values["function"], dict(values["files"]), tuple(values["requirements"])
    texts = [function, *files, *files.values(), *requirements]
    if not all(isinstance(each, str) for each in texts) or not re.fullmatch(r"\w+(\.\w+)*:\w+", function):
        raise ValueError("the code of its model is not text")
    if not all(FILE.fullmatch(path) for path in files) or sum(map(len, files.values())) > LARGEST:
        raise ValueError("the code of its model has impossible file names, or is too large")
    if type(values["divisor"]) is not int or values["divisor"] not in DIVISORS:
        raise ValueError(f"divisor={values['divisor']!r:.40} is impossible")
    return ModelCode(function, files, requirements, values["divisor"])


def write_code(code: ModelCode, folder: Path) -> dict[str, Any]:
    """Write the files into a new folder in `folder`, and return what `read_code` needs to find and check them."""
    target = folder / f"own_model_{code.checksum[:12]}"
    for path, text in code.files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text, encoding="utf-8", newline="")
    if not code.files:
        target.mkdir(parents=True)
    about = code.as_values() | {"files": list(code.files), "folder": target.name, "sha256": code.checksum}
    return about


def read_code(about: Mapping[str, Any], folder: Path) -> ModelCode:
    """Read the code that `write_code` wrote, without running it.

    Args:
        about: what `write_code` returned.
        folder: where it wrote.

    Raises:
        ValueError: a file is missing, or is not the one that was written.
    """
    paths, name = list(about["files"]), about["folder"]
    if not all(isinstance(path, str) and FILE.fullmatch(path) for path in paths) or not re.fullmatch(r"\w+", name):
        raise ValueError("the code of its model has impossible file names")
    try:
        texts = {path: (folder / name / path).read_bytes().decode() for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the code of its model is missing or damaged: {error}") from error
    code = stored_code({**about, "files": texts})
    if code.checksum != about["sha256"]:
        raise ValueError("the code of its model is not the one that was stored (SHA-256 differs)")
    return code


def local_code(model: str) -> ModelCode:
    """Return the code of an own model as the files are now. In one process, a model's code is read once.

    The module is looked for in the current folder, in the folders of `sys.path` that are not of installed packages, and
    last among the installed packages.

    Raises:
        InputError: there is no such module, or its code cannot travel with a model.
    """
    return _local_code(model, tuple(_folders()))


@cache
def _local_code(model: str, folders: tuple[str, ...]) -> ModelCode:
    module = model.partition(MARK)[0]
    top = module.partition(".")[0]
    if top in THIS_PROJECT:
        raise InputError(f"model={model}: a function of this project cannot be stored with a model; copy it to a file")
    found = None if top in sys.stdlib_module_names else _locate(module, folders)
    if not found:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            spec = None
        if spec is None or spec.origin is None:
            raise InputError(
                f"model={model}: there is no module {module} in {listed(folders)} or among the installed packages; "
                f"start the command in the folder that holds {top}.py or the package {top}"
            )
        return ModelCode(model, {}, _requirements({top}))
    files: dict[str, str] = {}
    packages: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path, file in (_locate(name, folders) or {}).items():
            if path in files:
                continue
            files[path], tree = _parsed(model, file)
            for imported in _imports(tree, path):
                first = imported.partition(".")[0]
                if first in THIS_PROJECT:
                    raise InputError(
                        f"model={model}: {file} imports {imported}, which cannot be stored with a model; copy what it "
                        f"needs to your own file"
                    )
                if first in sys.stdlib_module_names:
                    continue
                if _locate(first, folders) is None:
                    packages.add(first)
                else:
                    waiting.append(imported)
    if sum(map(len, files.values())) > LARGEST:
        raise InputError(f"model={model}: its {len(files)} source files are larger than {LARGEST} characters together")
    return ModelCode(model, dict(sorted(files.items())), _requirements(packages))


def _folders() -> Iterator[str]:
    """Yield the folders in which local modules are looked for."""
    seen: set[Path] = set()
    for entry in [str(Path.cwd()), *sys.path]:
        folder = Path(entry).resolve()
        if folder.is_dir() and folder not in seen and not _is_installed(folder):
            seen.add(folder)
            yield str(folder)


def _is_installed(path: Path) -> bool:
    """Return whether a file or folder belongs to Python or to an installed package."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    places = sysconfig.get_paths()
    return any(path.is_relative_to(Path(places[name]).resolve()) for name in ("stdlib", "platstdlib"))


def _locate(module: str, folders: Sequence[str]) -> dict[str, Path] | None:
    """Return the files of a local module and of the packages that contain it, by path; None if it is not local."""
    parts, where, files = module.split("."), list(folders), {}
    for index, part in enumerate(parts):
        spec = _spec_of_top(part, folders) if index == 0 else PathFinder.find_spec(".".join(parts[: index + 1]), where)
        if spec is None:
            return None
        inside = spec.submodule_search_locations
        if spec.has_location and spec.origin is not None:
            if not spec.origin.endswith(".py"):
                raise InputError(f"{spec.origin} is not a .py file: it cannot be stored with a model")
            path = "/".join(parts[: index + 1]) + (".py" if inside is None else "/__init__.py")
            files[path] = Path(spec.origin)
        if inside is None and index < len(parts) - 1:
            return None
        where = list(inside or ())
    return files


def _spec_of_top(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Return the spec of a top-level module that is local: in one of the folders, or installed as editable."""
    spec = PathFinder.find_spec(name, folders)
    if spec is not None and spec.has_location:
        return spec
    everywhere = importlib.util.find_spec(name)
    if everywhere is None or everywhere.origin is None:
        return spec  # None, or a folder without __init__.py
    return None if _is_installed(Path(everywhere.origin).resolve()) else everywhere


def _parsed(model: str, file: Path) -> tuple[str, ast.Module]:
    """Return the text of a source file and its syntax tree."""
    try:
        text = importlib.util.decode_source(file.read_bytes())
        return text, ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"model={model}: {file}, line {error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"model={model}: {file} cannot be read: {error}") from error


def _imports(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield the modules that a file may import, with absolute names."""
    package = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _requirements(packages: set[str]) -> tuple[str, ...]:
    """Return the installed distributions that provide top-level packages, as `NAME==VERSION`."""
    wanted = packages - set(ALWAYS_THERE)
    if not wanted:
        return ()
    by_package = metadata.packages_distributions()
    names = {name for package in wanted for name in by_package.get(package, ())}
    return tuple(sorted(f"{name}=={plain_version(metadata.version(name))}" for name in names))


class _Copies(MetaPathFinder, Loader):
    """Imports the modules of a copy below a package of their own, and lets them import each other from there."""

    def __init__(self, package: str, files: Mapping[str, str], traced: Callable[[str], str]) -> None:
        self.package = package
        self.paths = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files}
        self.files = files
        self.traced = traced
        self.tops = {name.partition(".")[0] for name in self.paths}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = self._name(fullname)
        if name is None:
            return None
        is_package = self.paths.get(name, "/__init__.py").endswith("/__init__.py")
        if name and name not in self.paths and not any(each.startswith(f"{name}.") for each in self.paths):
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        path = self.paths.get(self._name(module.__name__) or "")
        if path is None:  # a package without a file
            return
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": self._import}
        exec(compile(self.files[path], self.traced(path), "exec"), vars(module))  # noqa: S102

    def get_source(self, fullname: str) -> str | None:
        """Return the text of a module, for tracebacks."""
        path = self.paths.get(self._name(fullname) or "")
        return None if path is None else self.files[path]

    def _name(self, fullname: str) -> str | None:
        """Return the name of a module in the copy; None if it is not in it."""
        if fullname == self.package:
            return ""
        return fullname.removeprefix(f"{self.package}.") if fullname.startswith(f"{self.package}.") else None

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """Import like `__import__`, but the modules of the copy from the copy."""
        top = name.partition(".")[0]
        if level or top not in self.tops:
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{self.package}.{top}"]
