"""Reads JSON and YAML files that may be damaged or hostile: a limit on size, no repeated keys, one kind of error."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from segmentation.errors import InputError
from segmentation.io.text_lists import read_text

MAX_YAML_BYTES = 2**20
"""Larger YAML files are refused: they are written by hand, and reading them is slow."""


def read_json(file: Path, max_bytes: int | None = None) -> Any:
    """Return the content of a JSON file. A repeated key and a number that is not finite are errors.

    Args:
        file: path of the file.
        max_bytes: limit on its size; None is the limit of `read_text`.

    Raises:
        InputError: the file cannot be read; the message names it.
    """
    text = read_text(file) if max_bytes is None else read_text(file, max_bytes)
    try:
        return json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error!s:.200}") from error


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file of plain values. Repeated keys, anchors and aliases are errors.

    Raises:
        InputError: the file cannot be read; the message names it.
    """
    text = read_text(file, MAX_YAML_BYTES)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has an alias (*name); write the value out")  # few of them can stand for gigabytes
        _refuse_repetition(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # the parser raises nearly any exception for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file} cannot be read as YAML: {_printable(reason):.200}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Python's parser would keep the last of equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse_twice(key for key, _ in pairs)
    return found


def _refuse_twice(keys: Iterable[str]) -> None:
    (first, times), *_ = Counter(keys).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(f"key {first!r:.80} is repeated")


def _not_finite(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def _refuse_repetition(node: yaml.Node | None) -> None:
    """Raise a ValueError if a mapping has a key twice. PyYAML would keep the last value."""
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for _, value in node.value:
            _refuse_repetition(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repetition(value)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
