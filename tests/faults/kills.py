"""A training that is killed again and again, at random moments: does it end with the figures of one that was not?

    python -m tests.faults.kills --times 50

starts the same `train` command with `resume=auto`, kills it by SIGKILL, and starts it again, until it has been killed
so many times and has finished. Then everything is compared with a training that was left alone: all figures of all
epochs, which must be there once each, the weights, the files, and the states of the runs. Prints one line of JSON; ends
with 1 if anything is not as it should be.
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
from tests.faults.results import tell
from tests.faults.training import Training, differences


def kills(times: int, place: Path, seed: int = 0, epochs: int = 40, **more: Any) -> dict[str, Any]:
    """Kill and compare.

    Returns:
        What was done and what was found, by name; `wrong` lists what should not be, and is empty.
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
        {"what": f"training killed by SIGKILL {moment}", "times": count, "wrong": "; ".join(wrong)}
        for moment, count in moments.most_common()
    ]
    return {"rows": rows, "trainings": trainings, "wrong": wrong}


def _is_finished(training: Training) -> bool:
    """Whether it was killed in its last moment, when its run had ended."""
    return "\nCheckpoints: " in training.said() and any(run.info.status == "FINISHED" for run in training.runs())


def _moment(training: Training) -> str:
    """What the training was at, as far as it left a trace."""
    if list(training.place.glob("checkpoints/*/.*")):
        return "while it wrote a checkpoint"
    if list(training.place.glob("cache/mlproject/*/.building*")):
        return "while it prepared pictures"
    if list(training.place.glob("unsent/*")):
        return "at a random moment of a run"
    return "before its run was open"


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
        return tell("kills", kills(asked.times, Path(place), asked.seed))


if __name__ == "__main__":
    sys.exit(main())
