"""What dead processes have left behind: runs that look alive, damaged files, records that were not sent."""

import os
from collections.abc import Iterator
from pathlib import Path

from segmentation.data import cache
from segmentation.errors import InputError, listed
from segmentation.system.progress import progress
from segmentation.training import checkpoints
from studies import tracking
from studies.base.rerun import here
from studies.config import DoctorConfig, StatusConfig, SyncConfig
from studies.runs.resume import can_resume
from studies.search.storage import is_missing, open_storage
from studies.tracking import FoundRun
from studies.tracking.journal import all_journals, journals, refused, run_of
from studies.tracking.ownership import is_left

CHECKPOINTS = ("best.pt", "last.pt")


def examine(config: DoctorConfig) -> None:
    """Print all that is found, and close the runs whose process is dead.

    Raises:
        InputError: something was found that only the user can mend.
    """
    tracking.keep_records_in(config.records)
    ills = [*_runs(config), *_studies(config), *_checkpoints(config), *_caches(config), *_records(config)]
    if ills:
        raise InputError(f"{len(ills)} thing(s) to mend:\n" + "\n".join(f"  {ill}" for ill in ills))
    print("All is well.")


def _runs(config: DoctorConfig) -> Iterator[str]:
    try:
        tracking.check_store()
        if tracking.is_absent():
            print(f"Runs: none yet, {tracking.address()} is not there.")
            return
        found = [run for run in tracking.runs_under_way() if run.run_id != os.environ.get("MLFLOW_RUN_ID")]
    except InputError as error:
        yield str(error)
        return
    print(f"Runs: {len(found)} said to be under way, in {tracking.address()}.")
    for run in found:
        known = [f"process {each.get('pid', '?')} on {each.get('host', '?')}" for each in run.processes]
        where = listed(known) or "an unknown process"
        print(f"  {run.run_id}, {run.kind or 'run'} {run.name}: {where}", end="")
        is_dead = run.is_dead()
        if is_dead is None:
            print(", which cannot be seen from here.")
        elif not is_dead:
            print(", which lives." if len(known) == 1 else ", of which one lives at least.")
        else:
            said = _closed(run, config) if config.close else f"; {_how_to_go_on(run, config)}"
            print(f", which {'are' if len(known) > 1 else 'is'} dead{said}")


def _closed(run: FoundRun, config: DoctorConfig) -> str:
    """What has become of a dead run, once what it had still to record is sent: its end may be among that."""
    try:
        waiting = sum(tracking.send_unsent(folder) for folder in journals(Path(config.records), run.run_id))
    except InputError as error:
        return f"; it stays as it is, since {error}"
    if waiting:
        return f"; it stays as it is, since MLflow has not taken {waiting} record(s) of it"
    now = tracking.find_run(run.run_id)
    if now is not None and now.status != "RUNNING":
        return "; what it still had to record was sent, and it is closed."
    goes_on = _how_to_go_on(run, config)
    tracking.end_run(run.run_id, "KILLED", f"its process died; {goes_on.splitlines()[0].rstrip(':')}")
    return f": now KILLED; {goes_on}"


def _how_to_go_on(run: FoundRun, config: DoctorConfig) -> str:
    if run.study or run.kind in ("tune", "models"):
        return "the same command goes on from there."
    if run.kind != "train":
        return "it can be made again."
    if not can_resume(run, Path(config.checkpoint_dir)):
        return f"its checkpoint is not in {config.checkpoint_dir}, so it cannot go on."
    told = here("train", {"resume": run.run_id, "checkpoint_dir": config.checkpoint_dir})
    return f"it can go on:\n    {told}"


def _studies(config: DoctorConfig) -> Iterator[str]:
    if is_missing(config.storage):
        return
    try:
        with open_storage(StatusConfig(storage=config.storage), heartbeat=60) as storage:
            print(f"Studies: {len(storage.get_all_studies())} in {config.storage}.")
    except InputError as error:
        yield str(error)


def _checkpoints(config: DoctorConfig) -> Iterator[str]:
    place = Path(config.checkpoint_dir)
    files = sorted(file for name in CHECKPOINTS for file in place.glob(f"*/{name}"))
    damaged = []
    with progress("reading checkpoints", len(files)) as bar:
        for file in files:
            try:
                checkpoints.load(file)
            except InputError as error:
                damaged.append(f"{error}: put another copy in its place, or remove it and begin that training anew")
            bar.update(1)
    print(f"Checkpoints: {len(files)} in {place}, {len(damaged)} of them damaged.")
    yield from damaged


def _caches(config: DoctorConfig) -> Iterator[str]:
    place = cache.root(config.cache_dir)
    folders = sorted(about.parent for about in place.glob("*/*/about.json"))
    folders = [folder for folder in folders if not cache.is_of_another_version(folder)]
    damaged = []
    with progress("reading prepared images", len(folders)) as bar:
        for folder in folders:
            if cache.verified_about(folder) is None:
                damaged.append(folder)
            bar.update(1)
    print(f"Prepared pictures: {len(folders)} split(s) in {place}, {len(damaged)} of them damaged.")
    for folder in damaged:
        if not config.close:
            yield f"the prepared pictures in {folder} are damaged: remove that folder, or let doctor do so: close=true"
            continue
        cache.discard(folder)
        print(f"  {folder} is damaged; it is made again when it is needed.")


def _records(config: DoctorConfig) -> Iterator[str]:
    left = journals(Path(config.records))
    print(f"Records that MLflow has not taken: of {len(left)} run(s).")
    for folder in all_journals(Path(config.records)):
        yield from _set_aside(folder)
    for folder in left:
        told = f"run {run_of(folder)} has records in {folder} that MLflow has not taken; to send them"
        yield f"{told}: {tracking.how_to_sync()}"


def _set_aside(folder: Path) -> Iterator[str]:
    """What MLflow has refused of a run, in one line, if anything."""
    found = refused(folder)
    if found:
        again = tracking.how_to_sync(again=True)
        yield (
            f"MLflow has refused {len(found)} record(s) of run {run_of(folder)}, which are set aside in {folder}: "
            f"{listed((each.why for each in found), 3)}. Fix the reason and send them by `{again}`, or remove that "
            f"folder if they are not needed"
        )


def send_records(config: SyncConfig) -> None:
    """Send what MLflow has not taken while runs were under way.

    Raises:
        InputError: it cannot be sent, or only in part.
    """
    tracking.keep_records_in(config.records)
    place = Path(config.records)
    everything = all_journals(place, config.run_id)
    if config.run_id is not None and not everything:
        raise InputError(f"run_id={config.run_id}: nothing of that run waits in {place}")
    found = everything if config.run_id is not None else journals(place)
    if config.again:
        found = sorted({*found, *(folder for folder in everything if refused(folder) and is_left(folder))})
    failed = []
    for folder in found:
        try:
            left = tracking.send_unsent(folder, config.again)
        except InputError as error:
            failed.append(f"{folder}: {error}")
            continue
        if left:
            failed.append(f"{folder}: MLflow has not taken {left} record(s)")
        elif refused(folder):
            failed += _set_aside(folder)
        else:
            print(f"Run {run_of(folder)}: all is sent.")
            print(tracking.where_to_look(run_of(folder)))
    if failed:
        raise InputError("not all was sent; nothing is lost:\n" + "\n".join(f"  {each}" for each in failed))
    if not found:
        print(f"Nothing waits in {place}.")
