"""Read compose.yaml and fill in its variables as Docker Compose does."""

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from tests.conftest import PROJECT

FILE = PROJECT / "compose.yaml"
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


class Service(NamedTuple):
    """One service: the words of its command, and its environment."""

    command: list[str]
    environment: dict[str, str]


def service(name: str, variables: Mapping[str, str]) -> Service:
    """Return a service of the file.

    Raises:
        LookupError: a required variable is missing or empty.
    """
    said = yaml.safe_load(FILE.read_text())["services"][name]
    command = said["command"]
    words = shlex.split(filled(command, variables)) if isinstance(command, str) else [
        filled(word, variables) for word in command
    ]  # fmt: skip
    return Service(words, {key: filled(value, variables) for key, value in said["environment"].items()})


def config(name: str) -> str:
    """Return the text of a file that is mounted into the containers."""
    text: str = yaml.safe_load(FILE.read_text())["configs"][name]["content"]
    return filled(text, {})


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Fill the variables of a text: `${NAME}`, `${NAME:-default}`, `${NAME:?what is missing}`; `$$` is a dollar."""

    def value(found: re.Match[str]) -> str:
        dollar, name, kind, more = found.groups()
        if dollar:
            return "$"
        if kind == "?" and not variables.get(name):
            raise LookupError(f"{name}: {more}")
        return variables.get(name) or more or ""

    return VARIABLE.sub(value, text)


def texts(node: Any) -> list[str]:
    """Return all texts in YAML content."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in texts(value)]
    if isinstance(node, list):
        return [text for value in node for text in texts(value)]
    return [str(node)]
