"""Turns `--field value` words into a command's configuration, and prints its help by groups of fields."""

import ast
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from segmentation.config import AugmentationConfig, DataConfig, ModelConfig, OptimizationConfig, ScoringConfig
from segmentation.errors import InputError, Mistakes
from segmentation.fields import read_value
from segmentation.system.runtime import importing
from studies.base.opened_run import opened_run
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

ABBREVIATED = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "optim": "optimizer"}
"""What users type for fields whose names are not similar."""


def parse(config_class: type, arguments: Sequence[str], program: str) -> Any:
    """Return the configuration for `--field value` words. With `--help`, print all fields and end the program.

    Raises:
        InputError: some words are wrong; the message lists all mistakes.
    """
    if {"-h", "--help"} & set(arguments):
        _print_help(config_class, program)
    mistakes = Mistakes()
    typed = _typed(config_class, arguments, program, mistakes)
    values, wrong = {}, []
    for name, text in typed.items():
        try:
            values[name] = read_value(config_class, name, text)
        except InputError as error:
            mistakes.add(str(error))
            wrong.append(name)
    for each in fields(config_class):
        if each.default is MISSING and each.name not in typed:
            mistakes.add(f"--{each.name} is missing. {_help_texts(config_class)[each.name]}")
            wrong.append(each.name)
    values |= _experiment(config_class, values)
    config = None
    if all(each.default is not MISSING or each.name in values for each in fields(config_class)):
        try:
            config = config_class(**values)
        except InputError as error:
            # a mistake that names a field whose value could not be read may be a consequence of that
            mistakes.add(
                *(text for text in error.mistakes if not any(re.search(rf"\b{name}=", text) for name in wrong))
            )
    mistakes.raise_all()
    # `mlflow run` passes every parameter that MLproject declares, typed or not
    if isinstance(config, TrainConfig) and not opened_run():
        object.__setattr__(config, "typed", frozenset(typed))
    return config


def _experiment(config_class: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the experiment that `MLFLOW_EXPERIMENT_NAME` names, for a command that records runs and is given none.

    `mlflow run` reads the variable itself, and opens the run.
    """
    named = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    records = any(each.name == "experiment" and each.default is not None for each in fields(config_class))
    return {"experiment": named} if named and records and "experiment" not in values and not opened_run() else {}


def _typed(config_class: type, arguments: Sequence[str], program: str, mistakes: Mistakes) -> dict[str, str]:
    """Return the text of every field in `--field value` and `--field=value` words; the last one counts."""
    known, words, found = [each.name for each in fields(config_class)], list(arguments), {}
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--"):
            write = f"write --{word}" if equals and name in known else "write --field value"
            mistakes.add(f"{word!r} stands where a field should: {write}")
            continue
        has_value = bool(equals)
        if not has_value and words and not words[0].startswith("--"):
            text, has_value = words.pop(0), True
        if name not in known:
            nearest = difflib.get_close_matches(ABBREVIATED.get(name, name), known, n=1, cutoff=0.6)
            hint = f"Did you mean --{nearest[0]}? " if nearest else ""
            if name in {each.name for each in fields(TrainConfig)}:
                hint = "It is a field of train. "
            mistakes.add(f"{flag} is not a field of {program.split()[-1]}. {hint}`{program} --help` lists all fields")
        elif has_value:
            found[name] = text
        else:
            mistakes.add(f"{flag} has no value: write {flag} VALUE")
    return found


def _print_help(config_class: type, program: str) -> None:
    """Print all fields by groups, and end the program."""
    with importing():
        import tyro

        tyro.cli(
            _by_groups(config_class),
            prog=program,
            description=_summary(config_class),
            args=["--help"],
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
        )


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
