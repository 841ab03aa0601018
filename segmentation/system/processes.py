"""Identity of a process across machines, and whether a recorded process is still alive.

A process is identified by host name, boot ID, PID namespace, PID and start time. The start time is in kernel ticks
since boot, so setting the clock has no effect. For a process of another host or PID namespace (a container), it cannot
be determined whether it is alive.
"""

import json
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

KEYS = ("host", "boot", "namespace", "pid", "started")
"""Keys that are equal in two records of the same process. Earlier versions recorded only host, pid and started."""
FIRST_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of the machine itself, which has this number on every boot."""
ENDED = ("Z", "X")
"""States of a process that has ended and whose parent has not waited for it."""
CLOCK_SECONDS = 10
"""Tolerance for start times in Unix time, which earlier versions recorded; they change when the clock is set."""


def me() -> dict[str, Any]:
    """A JSON-serializable record that distinguishes this process from every other process.

    `boot`, `namespace` and `machine` are None on systems that do not provide them. `started` is in ticks since boot on
    Linux, and in seconds of Unix time on other systems.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(), "boot": _text("/proc/sys/kernel/random/boot_id"), "namespace": _namespace(),
        "machine": _machine(), "pid": pid, "started": _state_and_start("self")[1] or _start_by_clock(pid),
    }  # fmt: skip


def parsed(text: str) -> dict[str, Any]:
    """The JSON object in a text, such as a record of `me`; empty if the text is incomplete or not JSON."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of `me` are of the same process."""
    if "boot" not in one and "boot" not in other:
        return (one.get("host"), one.get("pid")) == (other.get("host"), other.get("pid")) and _near(one, other)
    return all(one.get(key) == other.get(key) for key in KEYS)


def is_here(other: Mapping[str, Any]) -> bool:
    """Whether a recorded process belongs to the same host, boot and PID namespace as this process."""
    ours = me()
    return all(other.get(key) == ours[key] for key in ("host", "boot", "namespace"))


def is_dead(other: Mapping[str, Any]) -> bool | None:
    """Whether a recorded process has ended; None if that cannot be determined.

    Records of earlier versions do not contain the PID namespace. Their process is dead if no process has its PID, alive
    if the process with its PID has the same start time, and unknown otherwise.
    """
    pid, ours = other.get("pid"), me()
    if other.get("host") != ours["host"] or not isinstance(pid, int) or pid < 1:
        return None
    if "boot" not in other:
        return _is_dead_by_clock(pid, other)
    if other["boot"] != ours["boot"]:  # rebooted, or another machine of the same name
        return True if ours["machine"] is not None and other.get("machine") == ours["machine"] else None
    if other.get("namespace") != ours["namespace"]:
        return None
    if ours["boot"] is None:
        return _is_dead_by_clock(pid, other)
    if not _exists(pid):
        return True
    if Path("/proc/self").readlink() != Path(str(os.getpid())):  # /proc shows another namespace
        return None
    state, started = _state_and_start(pid)
    if started is None:
        return None if _exists(pid) else True  # some systems hide the processes of other users
    return started != other.get("started") or state in ENDED


def _is_dead_by_clock(pid: int, other: Mapping[str, Any]) -> bool | None:
    """Whether the process with this PID has ended; None if its start time differs, as the clock may have been set."""
    if not _exists(pid):
        return True
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return False if pid == os.getpid() or _near(other, {"started": process.create_time()}) else None
    except psutil.Error:
        return None


def _near(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return abs(one.get("started", 0) - other.get("started", 0)) <= CLOCK_SECONDS


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _state_and_start(pid: int | str) -> tuple[str, int | None]:
    """State of a process and its start in ticks since boot; the start is None if /proc does not show the process."""
    fields = (_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()  # the name may contain spaces and brackets
    return (fields[0], int(fields[19])) if len(fields) > 19 else ("", None)


@cache
def _start_by_clock(pid: int) -> float:
    """Start in Unix time, read once, so that all records of this process are equal."""
    return psutil.Process(pid).create_time()


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _machine() -> str | None:
    """The machine ID; None in a container, which has the ID of its image."""
    return _text("/etc/machine-id") if _namespace() == FIRST_NAMESPACE else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None
