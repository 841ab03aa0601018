"""Signals that stop this process: they raise `KeyboardInterrupt` and set a deadline for all further waiting."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Ctrl-C, termination, a closed terminal, and the signals that schedulers send before they reclaim a machine."""
STOP_SECONDS = 5.0
"""Seconds from the signal to the deadline; Docker kills after 10 s, and the run is closed after the deadline."""
EXIT_CODE = 128 + signal.SIGINT
"""Exit code of a process that a signal has stopped, whichever it was: 130."""
_deadline = math.inf
"""In seconds of `time.monotonic()`."""
_signal = ""
"""Name of the signal that set the deadline."""
AGAIN_SECONDS = 0.3
"""A Ctrl-C this soon after another is the same: `mlflow run` and the terminal may both send one."""
_pipe = -1
"""Where the numbers of signals are written for the thread that answers Ctrl-C; -1 without one."""


def seconds_left() -> float:
    """Seconds until the deadline; infinite unless a signal has asked this process to stop."""
    return max(0.0, _deadline - time.monotonic())


def is_stopping() -> bool:
    """Whether a signal has asked this process to stop."""
    return _deadline < math.inf


def stopped_by(error: BaseException) -> KeyboardInterrupt | None:
    """The `KeyboardInterrupt` that caused an exception, or None.

    A library may catch `KeyboardInterrupt` and raise another error, as torch.save does while it writes a block.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return KeyboardInterrupt(_signal) if is_stopping() else None


def restore(handlers: Mapping[int, Any]) -> None:
    """Restore the signal handlers that `catch` returned and remove the deadline."""
    global _deadline, _pipe
    for number, handler in handlers.items():
        signal.signal(number, handler)
    _deadline = math.inf
    if _pipe >= 0:
        signal.set_wakeup_fd(-1)
        os.close(_pipe)  # ends the thread
        _pipe = -1


def catch(answer: bool = False) -> dict[int, Any]:
    """Stop on these signals, except those that are ignored, as under `nohup`; returns the previous handlers.

    Args:
        answer: print a line at once on Ctrl-C, and end the process at once on the second. Python runs the handlers only
            between two of its own instructions, and a step of torch may take seconds.
    """
    global _pipe
    if answer:
        source, _pipe = os.pipe()
        os.set_blocking(_pipe, False)
        signal.set_wakeup_fd(_pipe, warn_on_full_buffer=False)
        threading.Thread(target=_answer, args=(source,), daemon=True).start()
    return {number: signal.signal(number, stop) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def set_all(handler: signal.Handlers) -> None:
    """Set the same handler for all of these signals."""
    for number in SIGNALS:
        signal.signal(number, handler)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `KeyboardInterrupt` and set the deadline.

    Later signals are ignored while the run is being closed: after Ctrl-C, `mlflow run` also terminates this process.
    """
    global _deadline, _signal
    _deadline, _signal = time.monotonic() + STOP_SECONDS, signal.Signals(number).name
    for each in SIGNALS:
        if signal.getsignal(each) is stop:
            signal.signal(each, lambda number, frame: None)  # SIG_IGN fails if a signal is already pending
    raise KeyboardInterrupt(_signal)


def _answer(source: int) -> None:
    """Answer each Ctrl-C whose number arrives in a pipe, until the pipe is closed."""
    first = math.inf
    with open(source, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] != signal.SIGINT:
                continue
            if first == math.inf:
                first = time.monotonic()
                print("\nStopping after this step. Press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)
            elif time.monotonic() - first > AGAIN_SECONDS:
                print("Stopped at once. The command doctor closes the run.", file=sys.stderr, flush=True)
                os._exit(EXIT_CODE)
