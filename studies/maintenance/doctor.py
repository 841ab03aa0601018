"""Find what killed processes have left: runs that are still RUNNING, damaged files, unsent records."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation.data import cache
from segmentation.errors import InputError, counted, listed
from segmentation.system.progress import progress
from studies.base.opened_run import opened_run, running_in_file
from studies.base.redaction import without_password
from studies.base.rerun import here
from studies.config import DoctorConfig, StatusConfig
from studies.search.storage import is_missing, open_storage

# torch and MLflow take seconds to import: each check imports them only if it finds something to examine
if TYPE_CHECKING:
    from studies.tracking import FoundRun


def examine(config: DoctorConfig) -> None:
    """Print what was found, and close the runs whose processes are dead.

    Raises:
        InputError: there are problems that the user must fix.
    """
    checks = (_runs, _studies, _checkpoints, _unneeded, _caches, _records)
    problems = [problem for check in checks for problem in check(config)]
    if problems:
        raise InputError(f"{counted(len(problems), 'problem')} to fix:\n" + "\n".join(f"  {each}" for each in problems))
    print("No problems found.")


def _runs(config: DoctorConfig) -> Iterator[str]:
    if running_in_file() == set():
        print(f"Runs: 0 RUNNING in {without_password(os.environ['MLFLOW_TRACKING_URI'])}.")
        return
    from studies import tracking

    tracking.keep_records_in(config.records)
    try:
        tracking.check_store(create=False)
        if tracking.is_absent():
            print(f"Runs: none yet, {tracking.address()} does not exist.")
            return
        found = [run for run in tracking.runs_under_way() if run.run_id != opened_run()]
    except InputError as error:
        yield str(error)
        return
    print(f"Runs: {len(found)} RUNNING in {tracking.address()}.")
    for run in found:
        known = [f"process {each.get('pid', '?')} on {each.get('host', '?')}" for each in run.processes]
        print(f"  {run.kind or 'run'} {run.name} ({run.run_id}), {listed(known) or 'unknown process'}: ", end="")
        is_dead = run.is_dead()
        if is_dead is None:
            print("cannot be checked from this machine.")
        elif not is_dead:
            print("alive." if len(known) == 1 else "at least one process is alive.")
        elif config.close:
            print(f"dead; {_close(run, config)}")
        else:
            print(f"dead; {_next_step(run, config)}")


def _close(run: "FoundRun", config: DoctorConfig) -> str:
    """Send the unsent records of a dead run, which may hold its end, and close it; return what was done."""
    from studies import tracking
    from studies.tracking.journal import unsent_journals

    try:
        unsent = sum(tracking.send_unsent(folder) for folder in unsent_journals(Path(config.records), run.run_id))
    except InputError as error:
        return f"not closed: {error}"
    if unsent:
        return f"not closed: MLflow did not accept {unsent} of its records."
    current = tracking.find_run(run.run_id)
    if current is not None and current.status != "RUNNING":
        return f"its records were sent, it is {current.status}."
    next_step = _next_step(run, config)
    tracking.end_run(run.run_id, "KILLED", "its process died", next_step)
    return f"closed as KILLED. {next_step}"


def _next_step(run: "FoundRun", config: DoctorConfig) -> str:
    """Return how to continue a dead run."""
    from studies.runs.resume import can_resume

    if run.study or run.kind in ("tune", "models"):
        return "The same command resumes it."
    if run.kind != "train":
        return "Run its command again."
    if not can_resume(run, Path(config.checkpoint_dir)):
        return f"It cannot be resumed: its checkpoint is not in {config.checkpoint_dir}."
    command = here("train", {"resume": run.run_id, "checkpoint_dir": config.checkpoint_dir})
    return f"Resume it:\n    {command}"


def _studies(config: DoctorConfig) -> Iterator[str]:
    if is_missing(config.storage):
        return
    try:
        with open_storage(StatusConfig(storage=config.storage), heartbeat=60) as storage:
            print(f"Studies: {len(storage.get_all_studies())} in {config.storage}.")
    except InputError as error:
        yield str(error)


def _checkpoints(config: DoctorConfig) -> Iterator[str]:
    folder = Path(config.checkpoint_dir)
    if not _checkpoint_folders(config):
        print(f"Checkpoints: none in {folder}.")
        return
    from segmentation.training import checkpoints
    from segmentation.training.checkpoints import shown_size, size_of

    files = sorted(file for name in checkpoints.NAMES for file in folder.glob(f"*/{name}"))
    damaged = []
    with progress("reading checkpoints", len(files)) as bar:
        for file in files:
            try:
                checkpoints.load(file)
            except InputError as error:
                damaged.append(f"{error}: replace it by a copy, or remove it and start that run again")
            bar.update(1)
    print(f"Checkpoints: {len(files)} in {folder}, {shown_size(size_of(files))}, {len(damaged)} damaged.")
    yield from damaged


def _unneeded(config: DoctorConfig) -> Iterator[str]:
    """List the checkpoints that finished runs no longer need, or delete them with `prune`."""
    folders = _checkpoint_folders(config)
    if not folders:
        return
    from segmentation.training.checkpoints import shown_size, size_of
    from studies import tracking

    tracking.keep_records_in(config.records)
    try:
        tracking.check_store(create=False)
        files = [] if tracking.is_absent() else [file for each in folders for file in _unneeded_of(each)]
    except InputError as error:
        yield f"which checkpoints are needed is not known: {error}"
        return
    if not files:
        return
    size = shown_size(size_of(files))
    for file in files:
        print(f"  {file}, {shown_size(size_of([file]))}, is of a finished run.")
        if config.prune:
            file.unlink()
    if config.prune:
        print(f"  Deleted {counted(len(files), 'checkpoint')}, {size}.")
    else:
        command = here("doctor", {"checkpoint_dir": config.checkpoint_dir, "prune": True})
        print(f"  To delete {counted(len(files), 'checkpoint')}, {size}:\n    {command}")


def _checkpoint_folders(config: DoctorConfig) -> list[Path]:
    """Return the folders of runs that have checkpoints."""
    return sorted({file.parent for file in Path(config.checkpoint_dir).glob("*/*.pt")})


def _unneeded_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a run that nothing needs any more.

    Of a finished run whose records MLflow has all accepted, these are all if MLflow has its model, and otherwise all
    but the one that holds the model. All others may be needed: a stopped run resumes from its checkpoint.
    """
    from segmentation.training import checkpoints
    from studies import tracking

    files = [file for name in checkpoints.NAMES if (file := folder / name).is_file()]
    run = tracking.find_run(folder.name) if files else None
    if run is None or run.status != "FINISHED" or run.kind != "train" or not tracking.is_sent(run.run_id):
        return []
    if tracking.has_model(run.run_id):
        return files
    kept = {f"{run.keep}.pt"} & {file.name for file in files} or {files[0].name}
    return [file for file in files if file.name not in kept]


def _caches(config: DoctorConfig) -> Iterator[str]:
    root = cache.root(config.cache_dir)
    folders = sorted(about.parent for about in root.glob("*/*/about.json"))
    folders = [folder for folder in folders if not cache.is_of_another_version(folder)]
    damaged = []
    with progress("reading prepared images", len(folders)) as bar:
        for folder in folders:
            if cache.verified_about(folder) is None:
                damaged.append(folder)
            bar.update(1)
    print(f"Prepared images: {counted(len(folders), 'split')} in {root}, {len(damaged)} damaged.")
    for folder in damaged:
        if not config.close:
            yield f"the prepared images in {folder} are damaged: remove that folder, or run doctor with close=true"
            continue
        cache.discard(folder)
        print(f"  {folder} was damaged and is removed; the next run prepares it again.")


def _records(config: DoctorConfig) -> Iterator[str]:
    folder = Path(config.records)
    if not any(folder.glob("*/")):
        print(f"Unsent records: none in {folder}.")
        return
    from studies import tracking
    from studies.tracking.journal import all_journals, run_of, unsent_journals

    tracking.keep_records_in(config.records)
    unsent = unsent_journals(folder)
    print(f"Unsent records: of {counted(len(unsent), 'run')} in {folder}.")
    for journal in all_journals(folder):
        if message := tracking.refused_summary(journal):
            yield message
    for journal in unsent:
        yield f"MLflow has not accepted all records of run {run_of(journal)}, in {journal}: {tracking.sync_command()}"
