import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.errors import InputError
from segmentation.system import interruption
from segmentation.training.checkpoints import load, save
from tests.segmentation.training.test_checkpoints import checkpoint


def test_a_signal_during_the_write_of_a_checkpoint_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save catches the exception that the signal raises, and raises a RuntimeError."""
    file = tmp_path / "last.pt"
    save(checkpoint(1), file)
    fdopen, before = os.fdopen, interruption.catch()

    class Interrupted:
        def __init__(self, stream: Any) -> None:
            self.stream, self.writes = stream, 0

        def write(self, block: bytes) -> int:
            self.writes += 1
            if self.writes == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.stream.write(block)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *error: object) -> None:
            self.stream.close()

    monkeypatch.setattr(os, "fdopen", lambda *arguments: Interrupted(fdopen(*arguments)))
    try:
        with pytest.raises(InputError) as raised:
            save(checkpoint(2), file)
        stopped = interruption.stopped_by(raised.value)
        assert isinstance(stopped, KeyboardInterrupt)
        assert str(stopped) == "SIGTERM"
    finally:
        interruption.restore(before)
    assert interruption.stopped_by(raised.value) is None
    assert load(file).epoch == 1
    assert torch.equal(load(file).network["w"], torch.arange(3.0))


IN_C = """
import hashlib, signal, threading
from segmentation.system import interruption
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
interruption.catch(answer=True)
threading.Timer(1, print, ("ready",), {"flush": True}).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""
"""A program that is in C for minutes, as in a long step of torch: Python runs no handler meanwhile."""


@pytest.mark.slow
def test_ctrl_c_is_answered_at_once_and_a_second_one_ends_the_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", IN_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline() == "\n"
            assert "again to stop at once" in process.stderr.readline()
            process.send_signal(signal.SIGINT)  # the same one, sent twice
            time.sleep(2 * interruption.AGAIN_SECONDS)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
