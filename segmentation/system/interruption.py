"""What a process does when a signal asks it to stop: it ends within a deadline, whatever it waits for."""

import math
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Ctrl-C, an end asked for, a terminal that was closed, and what schedulers send before they take a machine away."""
STOP_SECONDS = 5.0
"""From the signal until nothing is waited for any more; Docker kills after 10 s, and what is left takes time, too."""
_deadline = math.inf
"""As of `time.monotonic()`."""
_signal = ""
"""Name of the signal that set the deadline."""


def seconds_left() -> float:
    """How long this process may still wait for anything; infinite unless a signal has asked it to stop."""
    return max(0.0, _deadline - time.monotonic())


def is_stopping() -> bool:
    """Whether a signal has asked this process to stop."""
    return _deadline < math.inf


def stopped_by(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption behind an exception: a library may catch our `KeyboardInterrupt` and raise an error of its own.

    torch.save does, when the signal arrives while it writes a block.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return KeyboardInterrupt(_signal) if is_stopping() else None


def restore(handlers: Mapping[int, Any]) -> None:
    """Restore the signal handlers that `catch` returned; the process is not stopping any more."""
    global _deadline
    for number, handler in handlers.items():
        signal.signal(number, handler)
    _deadline = math.inf


def catch() -> dict[int, Any]:
    """Stop on any of these signals, but for those that are ignored, as under `nohup`; returns what was done before."""
    return {number: signal.signal(number, stop) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def set_all(handler: signal.Handlers) -> None:
    """Set the same handler for all of these signals: the default one, or none."""
    for number in SIGNALS:
        signal.signal(number, handler)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop once; a second signal must not disturb the run that is being closed (Ctrl-C reaches `mlflow run` too,
    which then terminates us)."""
    global _deadline, _signal
    _deadline, _signal = time.monotonic() + STOP_SECONDS, signal.Signals(number).name
    for each in SIGNALS:
        if signal.getsignal(each) is stop:
            signal.signal(each, lambda number, frame: None)  # SIG_IGN would trip over a signal that is already pending
    raise KeyboardInterrupt(_signal)
