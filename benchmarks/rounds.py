"""Times contestants in turns: each has its own process, and one works while the others sleep.

Separate processes keep the allocator, threads and caches of one contestant from affecting another. Turns, round after
round, spread the slow phases of a shared machine over all contestants.
"""

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from benchmarks.stages import SLOW_IMPORTS

Role = Literal["ours", "limit", "peer"]


@dataclass(frozen=True)
class Contestant:
    """One implementation of the work."""

    name: str
    role: Role
    prepare: Callable[..., Callable[[], Any]]
    """A module-level function, called once in the contestant's process with `arguments`. It prepares everything and
    returns the function that is timed once per round. The result of that function must be picklable; it is compared.
    If only a part of it counts, it returns a `Part`."""
    arguments: tuple[Any, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, set before the contestant's process imports anything."""


@dataclass(frozen=True)
class Part:
    """Result of a function of which only a part is timed."""

    seconds: float
    """Wall-clock time of that part."""
    value: Any


@dataclass(frozen=True)
class Times:
    """Time and memory of one contestant."""

    name: str
    role: Role
    seconds: list[float]
    """Wall-clock time of each round."""
    core_seconds: list[float]
    """CPU time of all cores in each whole round."""
    memory: float
    """Peak memory of the process minus its memory when it was ready, in MB of 2**20 bytes."""
    value: Any
    """Result of the last round."""


class ContestantError(Exception):
    """A contestant failed; the message holds its name and traceback."""


def in_turns(
    contestants: Sequence[Contestant],
    rounds: int,
    warmups: int = 1,
    on_turn: Callable[[str], None] = lambda _: None,
    quick: bool = False,
) -> list[Times]:
    """Run each contestant once per round, in the given order, after some warm-up rounds.

    With `quick`, the processes are forked from one that has imported everything. This saves most of the time, but they
    share memory, and environment variables may be set too late.

    Raises:
        ContestantError: one of them failed.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(contestant, quick)) for contestant in contestants]
        for contestant, connection in zip(contestants, processes, strict=True):
            _answer(contestant, connection)
        answers: list[list[tuple[float, float, float, Any]]] = [[] for _ in contestants]
        for number in range(-warmups, rounds):
            for contestant, connection, found in zip(contestants, processes, answers, strict=True):
                connection.send("work")
                answer = _answer(contestant, connection)
                if number >= 0:
                    found.append(answer)
                    on_turn(f"round {number + 1} of {rounds}: {contestant.name} {answer[0]:.3f} s")
        times = []
        for contestant, found in zip(contestants, answers, strict=True):
            seconds, cores, memory, value = zip(*found, strict=True)
            times.append(Times(contestant.name, contestant.role, [*seconds], [*cores], memory[-1], value[-1]))
        return times


@contextmanager
def _process(contestant: Contestant, quick: bool) -> Iterator[Connection]:
    context = multiprocessing.get_context("forkserver" if quick else "spawn")
    context.set_forkserver_preload(SLOW_IMPORTS)
    ours, theirs = context.Pipe()
    before = {name: os.environ.get(name) for name in contestant.environment}
    os.environ.update(contestant.environment)
    process = context.Process(target=_work, args=(theirs, contestant), daemon=False)
    process.start()
    theirs.close()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.send("end")
        process.join(30)
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()


def _answer(contestant: Contestant, connection: Connection) -> Any:
    try:
        kind, content = connection.recv()
    except (EOFError, ConnectionResetError):
        raise ContestantError(f"{contestant.name}: the process ended without an error message") from None
    if kind == "failed":
        raise ContestantError(f"{contestant.name}: {content}")
    return content


def _work(connection: Connection, contestant: Contestant) -> None:
    os.environ.update(contestant.environment)
    try:
        run = contestant.prepare(*contestant.arguments)
        _forget_peak()
        before = _peak()
        connection.send(("ready", None))
        while connection.recv() == "work":
            clock, cores = time.perf_counter(), _core_seconds()
            value = run()
            clock, cores = time.perf_counter() - clock, _core_seconds() - cores
            if isinstance(value, Part):
                clock, value = value.seconds, value.value
            connection.send(("done", (clock, cores, _peak() - before, value)))
    except (EOFError, ConnectionResetError, KeyboardInterrupt):
        pass
    except BaseException:
        connection.send(("failed", traceback.format_exc()))


def _core_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak() -> float:
    """Peak memory of this process in MB. (`ru_maxrss` starts with the memory of the parent.)"""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
