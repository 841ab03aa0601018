"""Disturb the tracking server of a training run in several ways, and check that every metric arrives exactly once.

    python -m tests.faults.outages --seconds 60

trains once undisturbed and once with each fault: the server killed and restarted, status 500, slow responses, no
responses, lost responses, a failing artifact store. Then all metrics are compared. At last a run receives SIGTERM while
the server does not respond: it must exit soon, and `sync` must send its records.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.results import report
from tests.faults.server import Door, Server
from tests.faults.training import Training, differences

FAULTS = {
    "killed": "tracking server killed and restarted after {} s",
    "error": "every request answered with status 500 for {} s",
    "hang": "no request answered for {} s",
    "slow": "every request delayed by 1 s for {} s",
    "lost answers": "every request executed but its response lost for {} s",
    "no files": "artifact store failing for {} s",
}

STOPPED_WITHIN = 8.0
"""Seconds from SIGTERM to the end of a process; Docker kills after 10."""


def outages(seconds: float, epochs: int, place: Path) -> dict[str, Any]:
    """Train with each fault and compare the results.

    Args:
        seconds: how long each fault lasts; it begins after the second epoch.
        epochs: enough for the training to outlast the fault.
        place: an empty folder.
    """
    rows, wrong = [], []
    with Server(place / "server") as server, Door(server) as door:
        alone = Training(place / "alone", epochs, door.uri)
        assert alone.start().wait() == 0, alone.said()
        for fault, what in FAULTS.items():
            training = Training(place / fault, epochs, door.uri)
            process = training.start()
            while "epoch 2/" not in training.said():
                assert process.poll() is None, training.said()
                time.sleep(0.05)
            before = training.epochs_done()
            if fault == "killed":
                server.stop()
            else:
                door.fault = fault  # type: ignore[assignment]
            time.sleep(seconds)
            meanwhile = training.epochs_done() - before
            if fault == "killed":
                server.start()
            door.fault = "none"
            ended = process.wait()
            found = [] if ended == 0 else [f"ended with {ended}: {training.said()[-500:]}"]
            found += differences(alone, training)
            if not meanwhile:
                found.append("no epoch was finished during the fault")
            wrong += [f"{fault}: {each}" for each in found]
            rows.append({"what": what.format(f"{seconds:g}"), "times": 1, "wrong": "; ".join(found)})
        training = Training(place / "stopped", epochs, door.uri)
        found = stopped_while_nothing_answers(training, door)
        wrong += [f"stopped: {each}" for each in found]
        what = f"SIGTERM while the server does not respond: exit within {STOPPED_WITHIN:g} s, and `sync` sends the rest"
        rows.append({"what": what, "times": 1, "wrong": "; ".join(found)})
    return {"rows": rows, "wrong": wrong}


def stopped_while_nothing_answers(
    training: Training, door: Door, *command: str, within: float = STOPPED_WITHIN
) -> list[str]:
    """Send SIGTERM to a run while a request hangs; return what went wrong.

    Args:
        training: not yet started.
        door: the proxy of its server.
        command: another command than the run's own.
        within: seconds in which the process must have ended.
    """
    before = {run.info.run_id for run in training.runs()}
    process = training.start_command(*command) if command else training.start()
    while not training.has_an_epoch():
        assert process.poll() is None, training.said()
        time.sleep(0.05)
    door.turned_away, door.fault = 0, "hang"
    while door.turned_away < 1:
        assert process.poll() is None, training.said()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    seconds = time.monotonic() - began
    door.fault = "none"
    wrong = [] if seconds <= within else [f"it took {seconds:.1f} s to end"]
    wrong += [] if process.returncode == 130 else [f"ended with {process.returncode}: {training.said()[-500:]}"]
    sync = training.start_command("sync")
    if sync.wait():
        wrong.append(f"sync ended with {sync.returncode}: {training.said()[-500:]}")
    ours = [run for run in training.runs() if run.info.run_id not in before]
    for run in ours:
        why = run.data.tags.get("status_reason")
        if (run.info.status, why) != ("KILLED", "killed by SIGTERM"):
            wrong.append(f"run {run.info.run_name} is {run.info.status}: {why}")
    epochs = {step for run in ours for step, _ in training.metrics(run.info.run_id).get("val/loss", [])}
    if epochs != set(range(1, len(epochs) + 1)) or len(epochs) < training.epochs_done():
        wrong.append(f"epochs are {sorted(epochs)}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outages-") as place:
        return report("outages", outages(asked.seconds, asked.epochs, Path(place)))


if __name__ == "__main__":
    sys.exit(main())
