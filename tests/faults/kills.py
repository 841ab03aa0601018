"""Kill a training run again and again at random moments, and compare it with an uninterrupted one.

    python -m tests.faults.kills --times 50

starts the same `train` command with `resume=auto`, kills it by SIGKILL, and restarts it until it has been killed that
often and has finished. Then the metrics of every epoch (each must exist once), the weights, the files and the statuses
of the runs are compared with those of a run that was left alone. Prints one line of JSON; exits with 1 if anything
differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT
from tests.faults.results import report
from tests.faults.training import Training, differences


def kills(times: int, place: Path, seed: int = 0, epochs: int = 40, **more: Any) -> dict[str, Any]:
    """Kill runs and compare them.

    Returns:
        The result by name; `wrong` lists all differences.
    """
    alone = Training(place / "alone", epochs, **more)
    began = time.monotonic()
    assert alone.start().wait() == 0, alone.said()
    span = time.monotonic() - began
    chance, done, trainings, wrong = random.Random(seed), 0, 0, []
    moments: Counter[str] = Counter()
    while done < times:
        trainings += 1
        training = Training(place / f"killed-{trainings}", epochs, **more)
        while True:
            process = training.start("--resume=auto")
            before = training.epochs_done()
            patience = chance.uniform(0, span) if chance.random() < 0.2 else None
            while patience is None and process.poll() is None:
                if training.epochs_done() > before:
                    patience = chance.uniform(0, 1.5 * span / epochs)
                time.sleep(0.02)
            try:
                process.wait(patience if done < times else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                moments[_moment(training)] += 1
                if not _is_finished(training):
                    continue
            if process.returncode not in (0, -signal.SIGKILL):
                wrong.append(f"training {trainings} ended with {process.returncode}: {training.said()[-1500:]}")
            break
        wrong += [f"training {trainings}: {each}" for each in _compare(alone, training)]
    rows = [
        {"what": f"run killed by SIGKILL {moment}", "times": count, "wrong": "; ".join(wrong)}
        for moment, count in moments.most_common()
    ]
    return {"rows": rows, "trainings": trainings, "wrong": wrong}


def _is_finished(training: Training) -> bool:
    """Return whether it was killed after its run had ended."""
    return "\nCheckpoint: " in training.said() and any(run.info.status == "FINISHED" for run in training.runs())


def _moment(training: Training) -> str:
    """Return what the run was doing, as far as its files show."""
    if list(training.place.glob("checkpoints/*/.*")):
        return "while it wrote a checkpoint"
    if list(training.place.glob("cache/mlproject/*/.building*")):
        return "while it prepared images"
    if list(training.place.glob("unsent/*")):
        return "at a random moment"
    return "before it had opened its run"


def _compare(alone: Training, killed: Training) -> list[str]:
    subprocess.run(
        [sys.executable, str(PROJECT / "mlproject.py"), "doctor"], cwd=killed.place, env=killed.environment, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    states = Counter(run.info.status for run in killed.runs())
    if states["FINISHED"] != 1 or states["RUNNING"]:
        return [f"states of the runs are {dict(states)}"]
    return differences(alone, killed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        return report("kills", kills(asked.times, Path(place), asked.seed))


if __name__ == "__main__":
    sys.exit(main())
