"""Run IDs that are given by their first digits, as the UI and reports show them."""

import re
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from segmentation.errors import InputError, listed

FIELDS = ("model_uri", "run_id", "run_ids", "resume", "weights")
"""Fields of commands that take the ID of a run, or several IDs separated by commas."""
SHORT = re.compile("(?P<head>(?:runs:/)?)(?P<digits>[0-9a-f]{8,31})")


def with_whole_run_ids(config: Any, find: Callable[[str], Sequence[tuple[str, str]]]) -> Any:
    """Return a configuration in which each shortened run ID is replaced by the whole one.

    Texts that no run ID begins with are left as they are: they may be the name of an experiment.

    Args:
        config: the configuration of any command.
        find: returns ID and name of the runs whose ID begins with some digits. It is only called for shortened IDs.

    Raises:
        InputError: several runs begin with the digits.
    """
    whole = config
    for name in FIELDS:
        given = getattr(config, name, None)
        if not isinstance(given, str):
            continue
        parts = [part.strip() for part in given.split(",")]
        completed = [_completed(name, part, find) for part in parts]
        if completed != parts:
            whole = copy(whole)  # which keeps `typed`, as `dataclasses.replace` does not
            object.__setattr__(whole, name, ",".join(completed))
    return whole


def _completed(field: str, given: str, find: Callable[[str], Sequence[tuple[str, str]]]) -> str:
    short = SHORT.fullmatch(given)
    if short is None or Path(given).exists():
        return given
    found = find(short["digits"])
    if len(found) > 1:
        runs = listed((f"{run_id} ({name})" for run_id, name in found), 5)
        raise InputError(f"{field}: {given!r} is the beginning of {len(found)} run IDs: {runs}. Give more digits")
    return short["head"] + found[0][0] if found else given
