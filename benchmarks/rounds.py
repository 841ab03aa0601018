"""Contestants in turns: each lives in a process of its own, and one works while the others sleep.

A process of its own, because an allocator, a number of threads or a cache that one contestant sets would be the other's
too. In turns, round after round, because a shared machine is slower at some times than at others.
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
    """Someone who does the work."""

    name: str
    role: Role
    prepare: Callable[..., Callable[[], Any]]
    """A function of a module, called once in the contestant's process with `arguments`: gets everything ready and
    returns what is called, and timed, once a round. What that returns, which must be picklable, is compared."""
    arguments: tuple[Any, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set before anything is imported in the contestant's process."""


@dataclass(frozen=True)
class Times:
    """What one contestant needed."""

    name: str
    role: Role
    seconds: list[float]
    """On the clock, a round each."""
    core_seconds: list[float]
    """Of all cores together."""
    memory: float
    """Peak of the process, MB of 2**20 bytes, beyond what it held when it was ready."""
    value: Any
    """What the last round returned."""


class ContestantError(Exception):
    """A contestant has failed; the message is its name and its traceback."""


def in_turns(
    contestants: Sequence[Contestant],
    rounds: int,
    warmups: int = 1,
    tell: Callable[[str], None] = lambda _: None,
    quick: bool = False,
) -> list[Times]:
    """Let each contestant work once a round, all in the given order, after some rounds that do not count.

    Quick, their processes begin as copies of one that has imported everything. That saves most of the time, but memory
    is then shared, and what the environment says may come too late.

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
                    tell(f"round {number + 1} of {rounds}: {contestant.name} {answer[0]:.3f} s")
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
        raise ContestantError(f"{contestant.name}: the process ended without a word") from None
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
            connection.send(("done", (clock, cores, _peak() - before, value)))
    except (EOFError, ConnectionResetError, KeyboardInterrupt):
        pass
    except BaseException:
        connection.send(("failed", traceback.format_exc()))


def _core_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak() -> float:
    """Of this process alone: `ru_maxrss` begins with what its parent held when it was started."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
