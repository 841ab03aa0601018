"""What a process does when it is told to stop."""

import signal
from types import FrameType
from typing import Any, NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Ctrl-C, an end asked for, a terminal that was closed, and what schedulers send before they take a machine away."""


def catch() -> dict[int, Any]:
    """Stop on any of these signals, but for those that are ignored, as under `nohup`; returns what was done before."""
    return {number: signal.signal(number, stop) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def answer_all(handler: signal.Handlers) -> None:
    """Let all of these signals do the same: what they would by default, or nothing."""
    for number in SIGNALS:
        signal.signal(number, handler)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop once; a second signal must not disturb the run that is being closed (Ctrl-C reaches `mlflow run` too,
    which then terminates us)."""
    for each in SIGNALS:
        if signal.getsignal(each) is stop:
            signal.signal(each, lambda number, frame: None)  # SIG_IGN would trip over a signal that is already pending
    raise KeyboardInterrupt(signal.Signals(number).name)
