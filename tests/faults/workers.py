"""Kill and suspend workers of a study on several machines at random, and check that nothing is lost or done twice.

    python -m tests.faults.workers --workers 8 --minutes 4

starts the services of compose.yaml without containers, and workers as processes on machines that differ in their host
names (on Linux as root; otherwise all run on this one). At random moments a worker is killed by SIGKILL and replaced,
or suspended until it is presumed dead, and continued. At the end the workers finish the study, and `sync` sends the
records of killed ones. Then Optuna's trials, MLflow's runs, the checkpoints and the object store are checked. Prints
one line of JSON; exits with 1 if anything is wrong.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlflow import MlflowClient
from optuna import Study, load_study
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError
from segmentation.training import checkpoints
from studies.config import StudyConfig
from studies.search.storage import open_storage
from studies.search.trials import IDLE, RETRY_OF, RUN, STATES, counted_trials
from tests.conftest import write_own_data
from tests.faults.results import report
from tests.services.compose import Service
from tests.services.stack import Stack, stack
from tests.studies.search.conftest import tiny

NAME, EPOCHS = "killed", 6
MACHINES = 4
HEARTBEAT = 5
"""Seconds; a worker that is silent for twice as long is presumed dead."""
FROZEN = 4 * HEARTBEAT
"""Seconds."""
PAUSE = 2.0, 8.0
"""Seconds between two faults, from and to."""
FREEZES = 0.25
"""Fraction of the faults that only suspend a worker."""
ENDING = 600
"""Seconds that the undisturbed workers have for the rest of the study."""
SERVED = re.compile("PG|MLFLOW")
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}


@dataclass
class Crew:
    """The workers of the study."""

    service: Service
    place: Path
    fields: dict[str, Any]
    processes: dict[subprocess.Popen[bytes], Path] = field(default_factory=dict)
    """Living workers, each with its log."""
    started: int = 0
    died: list[str] = field(default_factory=list)
    """Messages of workers that ended although they should not have."""

    def start(self) -> None:
        """Start one more worker, on the machine whose turn it is."""
        machine = f"machine-{self.started % MACHINES}"
        (self.place / machine).mkdir(exist_ok=True)
        log = self.place / f"worker-{self.started}.log"
        self.started += 1
        words = [word for name, value in self.fields.items() for word in (f"--{name}", str(value))]
        with log.open("wb") as out:
            self.processes[self._begun(machine, ["tune", *words], out)] = log

    def send_what_is_left(self) -> list[str]:
        """Run `sync` on each machine with unsent records."""
        machines = sorted({folder.parts[-3] for folder in self.place.glob("machine-*/unsent/*")})
        for machine in machines:
            log = self.place / f"sync-{machine}.log"
            with log.open("wb") as out:
                if self._begun(machine, ["sync"], out).wait(300):
                    self.died.append(f"sync on {machine}: {log.read_text()}")
        return machines

    def _begun(self, machine: str, words: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [*self.service.command[:2], *words]
        if os.getuid() == 0 and shutil.which("unshare"):
            command = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', machine, *command]
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=self.place / machine, env=self.service.environment)

    def look(self) -> bool:
        """Remove workers that have ended; return whether one has ended because the study is done."""
        done = False
        for process in [each for each in self.processes if each.poll() is not None]:
            log = self.processes.pop(process)
            done |= process.returncode == 0
            if process.returncode not in (0, -signal.SIGKILL):
                last = log.read_text().strip().splitlines()[-1:]
                self.died.append(f"{log.name}, code {process.returncode}: {' '.join(last)}")
        return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; return 1 if anything was lost, done twice or wrong."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, stack(options.servers) as services:
        place = Path(folder)
        os.environ.update({key: value for key, value in services.worker().environment.items() if SERVED.match(key)})
        fields = tiny(
            write_own_data(place), storage="postgresql:///optuna", study_name=NAME, sampler="random", epochs=EPOCHS,
            n_trials=options.trials, heartbeat=HEARTBEAT, max_failures=100,
            cache_dir=str(place / "cache"), checkpoint_dir=str(place / "checkpoints"),
        )  # fmt: skip
        crew = Crew(services.worker(), place, fields)
        began = time.monotonic()
        try:
            happened = _disturb(crew, options.workers, 60 * options.minutes, random.Random(options.seed))
            disturbed = time.monotonic() - began
            _finish(crew)
            happened["machines_with_records_to_send"] = len(crew.send_what_is_left())
        finally:
            for process in crew.processes:
                process.kill()
                process.wait()
        happened |= {"minutes": round(disturbed / 60, 1), "minutes_in_all": round((time.monotonic() - began) / 60, 1)}
        found = _found(services, place, options.trials)
        tracebacks = [log.name for log in place.glob("worker-*.log") if "Traceback" in log.read_text()]
        found |= {"workers_that_ended_wrongly": crew.died, "tracebacks": tracebacks}
        if options.keep:
            shutil.copytree(place, options.keep, dirs_exist_ok=True)
    wrong = ", ".join(f"{name}: {len(value)}" for name, value in found.items() if isinstance(value, list) and value)
    rows = [
        {"what": f"one of {options.workers} workers of a study on {MACHINES} machines killed",
         "times": happened["kills"], "wrong": wrong},
        {"what": f"one suspended for {FROZEN} s, presumed dead, and continued", "times": happened["freezes"],
         "wrong": wrong},
    ]  # fmt: skip
    return report("workers", {"rows": rows, **happened, **found, "wrong": wrong})


def _disturb(crew: Crew, workers: int, seconds: float, dice: random.Random) -> dict[str, Any]:
    """Kill and suspend workers for some seconds, or until the study is done, and replace them."""
    kills = freezes = 0
    frozen: dict[subprocess.Popen[bytes], float] = {}
    until, next_fault = time.monotonic() + seconds, time.monotonic() + 30  # workers start slowly
    done = False
    while time.monotonic() < until and not done:
        done = crew.look()
        while len(crew.processes) < workers and not done:
            crew.start()
        for process in [each for each, end in frozen.items() if time.monotonic() >= end]:
            del frozen[process]
            process.send_signal(signal.SIGCONT)
        if time.monotonic() >= next_fault and crew.processes:
            next_fault = time.monotonic() + dice.uniform(*PAUSE)
            victim = dice.choice(list(crew.processes))
            if dice.random() < FREEZES and victim not in frozen:
                victim.send_signal(signal.SIGSTOP)
                frozen[victim] = time.monotonic() + FROZEN
                freezes += 1
            else:
                frozen.pop(victim, None)
                victim.kill()
                kills += 1
        time.sleep(0.2)
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    return {"workers": workers, "machines": MACHINES, "kills": kills, "freezes": freezes, "started": crew.started}


def _finish(crew: Crew) -> None:
    """Let the workers finish the study."""
    until = time.monotonic() + ENDING
    while crew.processes:
        assert time.monotonic() < until, "the workers do not end"
        if crew.look():
            until = min(until, time.monotonic() + 300)  # each draws its plots at the same time
        time.sleep(0.2)


def _found(services: Stack, place: Path, wanted: int) -> dict[str, Any]:
    """Return the final state; every list in it should be empty."""
    with open_storage(StudyConfig(storage="postgresql:///optuna"), heartbeat=60) as storage:
        study = load_study(study_name=NAME, storage=storage)
        trials, last = study.get_trials(), counted_trials(study)
    states = Counter(STATES.get(trial.state, trial.state.name.lower()) for trial in last)
    return {
        "trials": len(last), **states, "gone_on_with": sum(RETRY_OF in trial.user_attrs for trial in trials),
        "found_nothing_to_do": sum(IDLE in trial.user_attrs for trial in trials),
        "lost": _lost(last, wanted), "twice": _twice(trials),
        **_wrong_runs(study, last), **_wrong_files(services, last, place),
    }  # fmt: skip


def _lost(last: Sequence[FrozenTrial], wanted: int) -> list[str]:
    lost = [f"trial {trial.number} is {trial.state.name}" for trial in last if trial.state not in STATUS]
    return lost + ([] if len(last) == wanted else [f"{len(last)} trials, not {wanted}"])


def _twice(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the settings of more than one finished trial: no setting is drawn twice by chance."""
    ended = Counter(str(sorted(trial.params.items())) for trial in trials if trial.state in STATUS)
    return [settings for settings, count in ended.items() if count > 1]


def _wrong_runs(study: Study, last: Sequence[FrozenTrial]) -> dict[str, list[str]]:
    """Return what is wrong in MLflow."""
    client = MlflowClient()
    parent = client.get_run(study.user_attrs["mlflow_run_id"])
    below = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=5000
    )
    by_run = {trial.user_attrs[RUN]: trial for trial in last if RUN in trial.user_attrs}
    states, steps, orphans = [], [], []
    if parent.info.status != "FINISHED":
        states.append(f"the study's run is {parent.info.status}")
    for run in below:
        trial, status = by_run.get(run.info.run_id), run.info.status
        if trial is None:
            orphans.append(status)
            if status == "RUNNING":
                states.append(f"run {run.info.run_id} of no trial is RUNNING")
            continue
        if status != STATUS.get(trial.state, "FAILED"):
            states.append(f"trial {trial.number} is {trial.state.name}, its run is {status}")
        if status == "FINISHED" and "status_reason" in run.data.tags:
            states.append(f"trial {trial.number} is FINISHED, but for {run.data.tags['status_reason']!r}")
        history = client.get_metric_history(run.info.run_id, "val/loss")
        epochs = trial.user_attrs["epochs"]
        if sorted(point.step for point in history) != list(range(1, epochs + 1)):
            steps.append(f"trial {trial.number} of {epochs} epochs: {sorted(point.step for point in history)}")
        if trial.state == TrialState.COMPLETE and min(point.value for point in history) != trial.value:
            steps.append(f"trial {trial.number} is worth {trial.value}, which is not its best epoch's")
    missing = by_run.keys() - {run.info.run_id for run in below}
    return {
        "runs_of_no_trial": Counter(orphans), "wrong_states": states, "wrong_steps": steps,
        "runs_missing": sorted(missing),
    }  # type: ignore[dict-item]  # fmt: skip


def _wrong_files(services: Stack, last: Sequence[FrozenTrial], place: Path) -> dict[str, list[str]]:
    """Return damaged checkpoints, missing files and unsent records."""
    damaged, absent = [], []
    stored = {each.key for each in services.bucket().objects.all()}
    for trial in last:
        run_id = trial.user_attrs.get(RUN)
        try:
            epoch = checkpoints.load(place / "checkpoints" / str(run_id) / "last.pt").epoch
            if epoch != trial.user_attrs["epochs"]:
                damaged.append(f"trial {trial.number}: epoch {epoch}, not {trial.user_attrs['epochs']}")
        except InputError as error:
            damaged.append(str(error))
        if trial.state == TrialState.COMPLETE:
            for name in ("config.json", "reliability/val.json", "training.log"):
                if not any(key.endswith(f"{run_id}/artifacts/{name}") for key in stored):
                    absent.append(f"trial {trial.number}: {name}")
    unsent = [str(file.relative_to(place)) for file in place.glob("machine-*/unsent/*")]
    return {"damaged_checkpoints": damaged, "files_missing": absent, "unsent": unsent}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=8, help="processes that work at a time")
    parser.add_argument("--minutes", type=float, default=4, help="minutes in which workers are killed and frozen")
    parser.add_argument("--trials", type=int, default=60, help="trainings of the study")
    parser.add_argument("--servers", type=int, default=1, help="processes of the MLflow server")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--keep", type=Path, help="folder to keep what the workers printed and left")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
