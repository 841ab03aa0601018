"""Which process does something, and whether it still lives.

A process is known by host name, boot, PID namespace, number and start. The start is counted in the kernel's ticks since
boot, so setting the clock changes nothing. A process of another host or another PID namespace (a container) cannot be
seen from here and is never judged.
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
"""Of a record: what two records of the same process share. Earlier versions recorded host, pid and start alone."""
FIRST_NAMESPACE = "pid:[4026531836]"
"""The PID namespace of a machine itself; the kernel gives it this number on every boot."""
ENDED = ("Z", "X")
"""States of a process that has ended and that its parent has not yet asked about."""
CLOCK_SECONDS = 10
"""Records of earlier versions hold the start in Unix time, which differs by this much when clocks are set."""


def me() -> dict[str, Any]:
    """A record that distinguishes this process from every other one, as JSON can hold it.

    `boot`, `namespace` and `machine` are None where the system does not name them. `started` counts ticks since boot on
    Linux, and seconds of Unix time elsewhere.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(), "boot": _text("/proc/sys/kernel/random/boot_id"), "namespace": _namespace(),
        "machine": _machine(), "pid": pid, "started": _state_and_start("self")[1] or _first_reading(pid),
    }  # fmt: skip


def parsed(text: str) -> dict[str, Any]:
    """A JSON object that another process writes, such as `me`; empty if it has not come to its end, or never will."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records, as `me` makes them, are of the same process."""
    if "boot" not in one and "boot" not in other:
        return (one.get("host"), one.get("pid")) == (other.get("host"), other.get("pid")) and _near(one, other)
    return all(one.get(key) == other.get(key) for key in KEYS)


def is_here(other: Mapping[str, Any]) -> bool:
    """Whether a recorded process is, or was, among those that this process can see."""
    ours = me()
    return all(other.get(key) == ours[key] for key in ("host", "boot", "namespace"))


def is_dead(other: Mapping[str, Any]) -> bool | None:
    """Whether a recorded process has ended; None for one that cannot be seen from here.

    A record of an earlier version does not say in which container its process is. One whose number nobody has is dead,
    as before; one whose number somebody has lives if the start agrees, and is otherwise unknown.
    """
    pid, ours = other.get("pid"), me()
    if other.get("host") != ours["host"] or not isinstance(pid, int) or pid < 1:
        return None
    if "boot" not in other:
        return _is_dead_by_clock(pid, other)
    if other["boot"] != ours["boot"]:  # the machine was started anew, or is another one of the same name
        return True if ours["machine"] is not None and other.get("machine") == ours["machine"] else None
    if other.get("namespace") != ours["namespace"]:
        return None
    if ours["boot"] is None:
        return _is_dead_by_clock(pid, other)
    if not _exists(pid):
        return True
    if Path("/proc/self").readlink() != Path(str(os.getpid())):  # processes of another namespace are mounted there
        return None
    state, started = _state_and_start(pid)
    if started is None:
        return None if _exists(pid) else True  # some systems hide the processes of other users
    return started != other.get("started") or state in ENDED


def _is_dead_by_clock(pid: int, other: Mapping[str, Any]) -> bool | None:
    """Whether the process of this number has ended; None if its start differs, for the clock may have been set."""
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
    except OSError:  # it is another user's
        return True
    return True


def _state_and_start(pid: int | str) -> tuple[str, int | None]:
    """The state of a process and its start in ticks since boot; None if it is not there or cannot be read."""
    fields = (_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()  # the name before may hold spaces, brackets
    return (fields[0], int(fields[19])) if len(fields) > 19 else ("", None)


@cache
def _first_reading(pid: int) -> float:
    """The start by the clock, read once, so that every record of this process is the same."""
    return psutil.Process(pid).create_time()


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _machine() -> str | None:
    """The machine's lasting id; None in a container, whose id is its image's."""
    return _text("/etc/machine-id") if _namespace() == FIRST_NAMESPACE else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None
