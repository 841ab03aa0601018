"""Which process does something, and whether it still lives."""

import json
import socket
from collections.abc import Mapping
from typing import Any

import psutil

CLOCK_SECONDS = 10
"""The start of a process, as told now, may differ by this from what was told earlier, since clocks are put right."""


def me() -> dict[str, Any]:
    """What tells this process from every other one: host, number, and when it began, in seconds of Unix time."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def parsed(text: str) -> dict[str, Any]:
    """A JSON object that another process writes, such as `me`; empty if it has not come to its end, or never will."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `me` has described the same process twice."""
    same = (one.get("host"), one.get("pid")) == (other.get("host"), other.get("pid"))
    return same and abs(one.get("started", 0) - other.get("started", 0)) <= CLOCK_SECONDS


def is_dead(other: Mapping[str, Any]) -> bool | None:
    """Whether a process that `me` has described has ended; None for one of another machine, which cannot be seen."""
    if other["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(other["pid"])
        return abs(process.create_time() - other["started"]) > CLOCK_SECONDS or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
