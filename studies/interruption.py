"""What a process does when it is told to stop."""

import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop once; a second signal must not disturb the run that is being closed (Ctrl-C reaches `mlflow run` too,
    which then terminates us)."""
    for each in SIGNALS:
        signal.signal(each, lambda number, frame: None)  # SIG_IGN would trip over a signal that is already pending
    raise KeyboardInterrupt(signal.Signals(number).name)
