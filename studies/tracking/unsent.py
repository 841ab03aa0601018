"""What processes that are gone had still to tell MLflow, sent later."""

import posixpath
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from segmentation.system.processes import is_same
from studies.base.errors import unusable
from studies.tracking.journal import Entry, Journal, Send, journals, run_of
from studies.tracking.ownership import ClaimedError, owner
from studies.tracking.past_runs import FoundRun, find_run
from studies.tracking.runs import JOINED, records_folder, tell
from studies.tracking.sending import sender
from studies.tracking.store import PATIENCE, check_store, patiently


def send_unsent(folder: Path, again: bool = False) -> int:
    """Send what a journal that nobody has open still holds; returns how many entries are left.

    Entries that MLflow refuses are set aside in the folder and do not count. Where another process has resumed the run
    since, what that one has logged remains: only metrics and files that are missing are added.

    Args:
        folder: the journal's.
        again: whether to send once more what was set aside before.

    Raises:
        InputError: the run is not there or deleted, or another process sends it now.
    """
    check_store()
    run_id, wrote = run_of(folder), owner(folder)
    run = find_run(run_id)
    if run is None:
        raise InputError(f"there is no run {run_id}; if it was deleted for good, remove {folder}")
    is_latest = not wrote or not run.process or is_same(wrote, run.process)
    send = sender(run_id) if is_latest else _sender_of_what_is_missing(run_id)
    try:
        journal = Journal(folder, send, lambda error: tell(f"MLflow: {error}") if error else None, again)
    except ClaimedError as error:
        raise InputError(f"another process is at {folder} now") from error
    try:
        journal.wait(PATIENCE)
    finally:
        journal.close()
    if journal.lost:
        raise InputError(f"{journal.lost}, or remove {folder}")
    return journal.unsent()


def has_arrived(run: FoundRun, split: str) -> bool:
    """Whether MLflow has the scores that a finished training stored of a split, and its model if it was to log one.

    A run may be FINISHED before: what the tracking store takes, the artifact store may still refuse. If something is
    missing, what waits in the run's journals here is sent.
    """
    client = mlflow.MlflowClient()

    def look() -> bool:
        scored = {file.path for file in client.list_artifacts(run.run_id, "reliability")}
        if not {f"reliability/{split}.json", f"reliability/{split}_histograms.npz"} <= scored:
            return False
        if not run.promises_model:
            return True
        outputs = client.get_run(run.run_id).outputs
        models = [client.get_logged_model(each.model_id) for each in (outputs.model_outputs if outputs else [])]
        return any(each.status == LoggedModelStatus.READY for each in models)

    try:
        if patiently(look):
            return True
        waiting = journals(records_folder(), run.run_id)
        with suppress(InputError):  # it stays where it is
            for folder in waiting:
                send_unsent(folder)
        return bool(waiting) and patiently(look)
    except MlflowException as error:
        raise unusable(error) from error


def _sender_of_what_is_missing(run_id: str) -> Send:
    client, send = mlflow.MlflowClient(), sender(run_id)

    def is_there(entry: Entry) -> bool:
        if entry["what"] == "metrics":
            steps = [{point.step for point in client.get_metric_history(run_id, name)} for name in entry["values"]]
            return all(entry["step"] in each for each in steps)
        if entry["what"] == "artifacts":
            folder = posixpath.dirname(entry["path"]) or None
            return any(file.path == entry["path"] for file in client.list_artifacts(run_id, folder))
        if entry["what"] == "untag" and all(name.startswith(JOINED) for name in entry["values"]):
            return False  # that it has left, nobody else records
        return entry["what"] in ("tags", "untag", "end")  # of which the latest word counts

    def send_if_missing(entry: Entry, files: Path) -> None:
        if not is_there(entry):
            send(entry, files)

    return send_if_missing
