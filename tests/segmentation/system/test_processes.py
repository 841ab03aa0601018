"""Real processes: alive, ended, in other PID namespaces, and in records of earlier versions."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from segmentation.system import processes
from segmentation.system.processes import is_dead, is_here, is_same, me
from tests.conftest import PROJECT

LINUX = Path("/proc/self/ns/pid").exists()
NEW_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""Runs a command in a new PID namespace, as a container does, with the same host name."""

needs_namespaces = pytest.mark.skipif(
    not LINUX
    or not shutil.which("unshare")
    or subprocess.run([*NEW_NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode != 0,
    reason="new PID namespaces need Linux and root",
)

PRINTS_RECORD = """
import json, sys
from segmentation.system.processes import me
print(json.dumps(me()), flush=True)
sys.stdin.read()
"""
JUDGES_RECORD = """
import json, sys
from segmentation.system.processes import is_dead, is_here, is_same, me
other = json.loads(sys.argv[1])
print(json.dumps([is_dead(other), is_here(other), is_same(other, me())]))
"""


@contextmanager
def living(*prefix: str) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """The record of another process, and the function that kills it."""
    command = [*prefix, sys.executable, "-c", PRINTS_RECORD]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        yield json.loads(process.stdout.readline()), process.kill
        process.kill()


def judged(record: dict[str, Any], *prefix: str) -> list[bool | None]:
    """`is_dead`, `is_here` and `is_same` of a record, called in another process."""
    command = [*prefix, sys.executable, "-c", JUDGES_RECORD, json.dumps(record)]
    found: list[bool | None] = json.loads(subprocess.run(command, cwd=PROJECT, check=True, capture_output=True).stdout)
    return found


def test_a_process_is_alive_until_it_ends() -> None:
    with living() as (other, end):
        assert (is_dead(other), is_here(other), is_same(other, me())) == (False, True, False)
        end()
        while psutil.Process(other["pid"]).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert is_dead(other) is True, "a zombie"
    assert is_dead(other) is True
    assert (is_dead(me()), is_same(me(), json.loads(json.dumps(me())))) == (False, True)


def test_a_fork_is_another_process() -> None:
    ours = json.dumps(me())
    if (child := os.fork()) == 0:
        os._exit(0 if not is_same(json.loads(ours), me()) and is_dead(json.loads(ours)) is False else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not LINUX, reason="ticks since boot")
def test_a_reused_pid_is_another_process() -> None:
    earlier = me() | {"started": me()["started"] - 1}
    assert (is_dead(earlier), is_same(earlier, me())) == (True, False)


@pytest.mark.skipif(not LINUX, reason="ticks since boot")
def test_setting_the_clock_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil computes the start from the boot time, which changes when the clock is set."""
    with living() as (other, _):
        ours = me()
        for module in (psutil, psutil._pslinux):
            monkeypatch.setattr(module, "boot_time", lambda: time.time() - 12345.0)
        monkeypatch.setattr(time, "time", lambda: 7.0)
        assert (is_dead(other), is_dead(ours), is_same(ours, me())) == (False, False, True)


@needs_namespaces
def test_processes_of_other_containers_with_the_same_host_name_are_unknown() -> None:
    with living(*NEW_NAMESPACE) as (one, _), living(*NEW_NAMESPACE) as (other, _):
        assert one["host"] == other["host"] == socket.gethostname()
        assert one["pid"] == other["pid"] == 1
        assert not is_same(one, other)
        for judge in ((), tuple(NEW_NAMESPACE)):
            for record in (one, other, me()):
                expected = [False, True, False] if judge == () and record == me() else [None, False, False]
                assert judged(record, *judge) == expected
        assert is_dead(one) is None


@needs_namespaces
def test_inside_a_container_ended_processes_are_dead() -> None:
    inner = f"{sys.executable} -c '{PRINTS_RECORD}' < /dev/null"
    script = f'record=$({inner}); {sys.executable} -c "$1" "$record"; {sys.executable} -c "$1" "$record"'
    done = subprocess.run(
        [*NEW_NAMESPACE, "sh", "-c", script, "sh", JUDGES_RECORD], cwd=PROJECT, check=True, capture_output=True
    )
    assert done.stdout.split(b"\n")[:2] == [b"[true, true, false]"] * 2


@needs_namespaces
def test_where_proc_shows_another_namespace_only_an_unused_pid_is_dead() -> None:
    """`unshare` without mounting a new /proc."""
    script = (
        "import json, os; from segmentation.system.processes import is_dead, me\n"
        "child = os.fork()\n"
        "if child == 0: os.pause() if hasattr(os, 'pause') else __import__('time').sleep(60)\n"
        "found = [is_dead(me() | {'pid': child}), is_dead(me() | {'pid': 9999})]\n"
        "os.kill(child, 9); print(json.dumps(found))"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    assert json.loads(done.stdout) == [None, True]


def test_after_a_reboot_processes_are_dead_and_those_of_another_machine_are_unknown() -> None:
    ours = me()
    before = ours | {"boot": "another boot"}
    assert is_dead(before | {"machine": "m"}) is None, "another machine or container of the same name"
    if ours["machine"] is not None:
        assert is_dead(before) is True
    assert is_dead(before | {"machine": None}) is None
    assert is_dead(ours | {"host": "another"}) is None


def test_records_of_earlier_versions_are_read() -> None:
    """They contain host, PID, and start in Unix time."""
    with living() as (other, end):
        record = {"host": other["host"], "pid": other["pid"], "started": psutil.Process(other["pid"]).create_time()}
        assert is_dead(record) is False
        assert is_dead(record | {"started": record["started"] + 3600}) is None, "the clock may have been set"
        assert is_same(record, record | {"started": record["started"] + 1})
        assert not is_same(record, other)
        assert is_dead(record | {"host": "another"}) is None
        end()
    assert is_dead(record) is True


@pytest.mark.parametrize("record", [{}, {"host": "h"}, {"host": socket.gethostname()}, {"pid": "3"}, {"boot": None}])
def test_the_process_of_an_incomplete_record_is_unknown(record: dict[str, Any]) -> None:
    assert (is_dead(record), is_here(record), is_same(record, me())) == (None, False, False)


def test_without_proc_processes_are_compared_by_start_in_unix_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_text", lambda path: None)
    monkeypatch.setattr(processes, "_namespace", lambda: None)
    ours = me()
    assert (ours["boot"], ours["namespace"], ours["machine"]) == (None, None, None)
    assert (is_dead(ours), is_same(ours, me()), is_here(ours)) == (False, True, True)
    with living() as (other, end):
        record = ours | {"pid": other["pid"], "started": psutil.Process(other["pid"]).create_time()}
        assert is_dead(record) is False
        assert is_dead(record | {"started": 1.0}) is None
        end()
    assert is_dead(record) is True
