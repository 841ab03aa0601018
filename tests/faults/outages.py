"""A training whose tracking server is away, in every way, for a minute: are all its figures there afterwards, once?

    python -m tests.faults.outages --seconds 60

trains once with a server that is well, and once with each fault: the server killed and started again, answers with
500, slow answers, answers that are lost on their way back, no place for files. Then all figures are compared.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.results import tell
from tests.faults.server import Door, Server
from tests.faults.training import Training, differences

FAULTS = {
    "killed": "the tracking server is killed, and comes back after {} s",
    "error": "every request gets a 500, for {} s",
    "slow": "every request takes a second, for {} s",
    "lost answers": "every request is carried out, but its answer is lost, for {} s",
    "no files": "the store of files fails, for {} s",
}


def outages(seconds: float, epochs: int, place: Path) -> dict[str, Any]:
    """Train with every fault and compare.

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
                found.append("no epoch was finished meanwhile")
            wrong += [f"{fault}: {each}" for each in found]
            rows.append({"what": what.format(f"{seconds:g}"), "times": 1, "wrong": "; ".join(found)})
    return {"rows": rows, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outages-") as place:
        return tell("outages", outages(asked.seconds, asked.epochs, Path(place)))


if __name__ == "__main__":
    sys.exit(main())
