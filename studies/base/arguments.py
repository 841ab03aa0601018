"""Turns `--field value` words into a command's configuration, and prints its help by groups of fields."""

import ast
import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from segmentation.config import AugmentationConfig, DataConfig, ModelConfig, OptimizationConfig, ScoringConfig
from segmentation.errors import one_of
from segmentation.fields import choices
from studies.config import RecordConfig, TrainConfig

GROUPS: dict[str, type] = {
    "data": DataConfig, "augmentation": AugmentationConfig, "model": ModelConfig, "optimisation": OptimizationConfig,
    "scoring": ScoringConfig, "recording": RecordConfig,
}  # fmt: skip
"""Groups of the help, in its order. Each holds the fields that its class declares."""
ANYWHERE = ("data", "recording")
"""Groups that take a field by its name where a configuration has no such base class."""
MOST_USED = (
    "dataset", "data_dir", "model", "weights", "epochs", "batch_size", "learning_rate", "weight_decay", "seed",
)  # fmt: skip
"""Fields of a training configuration that its help begins with."""


def parse(config_class: type, arguments: Sequence[str], program: str) -> Any:
    """Return the configuration for `--field value` pairs. A mistake ends the program with a message and code 2."""
    import tyro

    found: Any = tyro.cli(
        _by_groups(config_class),
        prog=program,
        description=_summary(config_class),
        args=_in_python_spelling(config_class, arguments),
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )
    config = config_class(**_flattened(found))
    # `mlflow run` passes every parameter that MLproject declares, typed or not
    if isinstance(config, TrainConfig) and "MLFLOW_RUN_ID" not in os.environ:
        flags = (word.removeprefix("--").partition("=")[0] for word in arguments if word.startswith("--"))
        object.__setattr__(config, "typed", frozenset(flag.replace("-", "_") for flag in flags))
    return config


def groups(config_class: type) -> dict[str, list[str]]:
    """Return the names of all fields by group. The command's own and the most used fields are in group `""`, first."""
    found: dict[str, list[str]] = {title: [] for title in ("", *GROUPS)}
    if issubclass(config_class, TrainConfig):
        own = [each.name for each in fields(config_class) if _group(config_class, each.name) == ""]
        found[""] = [*own, *MOST_USED]
    for each in fields(config_class):
        if each.name not in found[""]:
            found[_group(config_class, each.name)].append(each.name)
    return {title: names for title, names in found.items() if names}


def _group(config_class: type, name: str) -> str:
    """Return the title of the group that a field belongs to, or `""` for a field of the command alone."""
    for title, group in GROUPS.items():
        if name in group.__annotations__ and (issubclass(config_class, group) or title in ANYWHERE):
            return title
    return ""


@cache
def _by_groups(config_class: type) -> type:
    """Return a dataclass with the same fields, those of each group in a nested dataclass."""
    import tyro

    by_name = {each.name: each for each in fields(config_class)}
    hints, texts = get_type_hints(config_class), _help_texts(config_class)

    options: Any = {"kw_only": True, "repr": False, "eq": False}

    def of_group(names: Sequence[str]) -> list[tuple[str, Any, Field[Any]]]:
        return [
            (name, Annotated[_hint(hints[name]), tyro.conf.arg(help=texts[name])], _default(by_name[name]))
            for name in names
        ]  # fmt: skip

    first, *others = groups(config_class).items()
    members = of_group(first[1])
    for title, names in others:
        # capitalised, since `model` is a field; with a text, or tyro would look for one in the source of the class
        group: Any = make_dataclass(title, of_group(names), **options)
        members.append((title.capitalize(), Annotated[group, tyro.conf.arg(help="")], field()))
    return make_dataclass(config_class.__name__, members, **options)


def _default(original: Field[Any]) -> Any:
    return field() if original.default is MISSING else field(default=original.default)


def _hint(hint: Any) -> Any:
    """Return `Optional[int]` for `int | None`: for the latter tyro loads a type checker, which takes 0.2 s."""
    return Union[get_args(hint)] if get_origin(hint) is UnionType else hint  # noqa: UP007


def _flattened(found: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in fields(found):
        value = getattr(found, each.name)
        values |= _flattened(value) if is_dataclass(value) else {each.name: value}
    return values


def _summary(config_class: type) -> str:
    return (config_class.__doc__ or "").strip()


def _help_texts(config_class: type) -> dict[str, str]:
    """Return the text below each field; that of a subclass goes before that of its base class."""
    found: dict[str, str] = {}
    for each in reversed(config_class.__mro__):
        file = getattr(sys.modules[each.__module__], "__file__", None)
        if is_dataclass(each) and file is not None:
            found |= _texts_by_class(file).get(each.__name__, {})
    return found


@cache
def _texts_by_class(file: str) -> dict[str, dict[str, str]]:
    """Return the strings below the annotated names of every class in a source file."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                above.target.id: below.value.value
                for above, below in zip(node.body, node.body[1:], strict=False)
                if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
                and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }  # fmt: skip
    return found


def _in_python_spelling(config_class: type, arguments: Sequence[str]) -> list[str]:
    """Capitalise `true`, `false` and `none`, and check closed lists of values so that a mistake gets a suggestion."""
    known, spelled = choices(config_class), list(arguments)
    types = {each.name: each.type for each in fields(config_class)}
    for index, argument in enumerate(spelled):
        joined = argument.startswith("--") and "=" in argument  # `--field=value`; otherwise a value follows its flag
        flag, _, value = argument.partition("=") if joined else (spelled[index - 1] if index else "", "", argument)
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or "=" in flag or name not in types:
            continue
        optional = type(None) in get_args(types[name])
        is_bool = bool in (types[name], *get_args(types[name]))
        if (is_bool and value.lower() in ("true", "false")) or (optional and value.lower() == "none"):
            spelled[index] = f"{flag}={value.capitalize()}" if joined else value.capitalize()
        elif name in known:
            one_of(name, value, [*known[name], "None"] if optional else known[name])
    return spelled
