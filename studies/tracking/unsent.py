"""Send the records that an ended process has left unsent."""

import posixpath
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

import studies.tracking.store as store
from segmentation.errors import InputError, counted, listed
from segmentation.system.processes import is_same
from studies.base.errors import unusable
from studies.tracking.journal import Entry, Journal, Send, refused, run_of, unsent_journals
from studies.tracking.ownership import ClaimedError, owner
from studies.tracking.queries import FoundRun, find_run
from studies.tracking.run_journals import print_message, records_folder, sync_command
from studies.tracking.run_tags import JOINED
from studies.tracking.sending import sender
from studies.tracking.store import check_store, with_retries


def send_unsent(folder: Path, again: bool = False) -> int:
    """Send the entries of a journal that no process has open; return how many remain unsent.

    Entries that MLflow refuses are set aside in the folder and do not count. If another process has resumed the run
    since, its records take precedence: only missing metrics and files are added.

    Args:
        folder: the journal's.
        again: whether to send the refused entries again.

    Raises:
        InputError: the run does not exist or was deleted, or another process is sending the journal.
    """
    check_store()
    run_id, author = run_of(folder), owner(folder)
    run = find_run(run_id)
    if run is None:
        raise InputError(f"run {run_id} does not exist; if it was deleted permanently, remove {folder}")
    is_latest = not author or not run.process or is_same(author, run.process)
    send = sender(run_id) if is_latest else _gap_sender(run_id)
    try:
        journal = Journal(folder, send, lambda error: print_message(f"MLflow: {error}") if error else None, again)
    except ClaimedError as error:
        raise InputError(f"another process is using {folder}") from error
    try:
        journal.wait(store.RETRY_SECONDS)
    finally:
        journal.close()
    if journal.lost:
        raise InputError(f"{journal.lost}, or remove {folder}")
    return journal.unsent()


def refused_summary(folder: Path) -> str | None:
    """Return one line about the refused entries in a journal's folder, with the next step; None if there are none."""
    found = refused(folder)
    if not found:
        return None
    return (
        f"MLflow has refused {counted(len(found), 'record')} of run {run_of(folder)}, set aside in {folder}: "
        f"{listed((each.why for each in found), 3)}. Fix the cause and send them with `{sync_command(again=True)}`, "
        f"or remove that folder if you do not need them"
    )


def is_sent(run_id: str) -> bool:
    """Return whether this machine holds no unsent records of a run."""
    return not unsent_journals(records_folder(), run_id)


def has_model(run_id: str) -> bool:
    """Return whether MLflow has the logged model of a run."""
    client = mlflow.MlflowClient()
    outputs = client.get_run(run_id).outputs
    models = [client.get_logged_model(each.model_id) for each in (outputs.model_outputs if outputs else [])]
    return any(each.status == LoggedModelStatus.READY for each in models)


def has_arrived(run: FoundRun, split: str) -> bool:
    """Return whether MLflow has the scores of a split of a finished training run, and its model if it logs one.

    A run may be FINISHED without them, since the artifact store can fail while the tracking store works. If something
    is missing, the run's unsent records on this machine are sent first.
    """
    client = mlflow.MlflowClient()

    def is_complete() -> bool:
        scored = {file.path for file in client.list_artifacts(run.run_id, "reliability")}
        if not {f"reliability/{split}.json", f"reliability/{split}_histograms.npz"} <= scored:
            return False
        return not run.promises_model or has_model(run.run_id)

    try:
        if with_retries(is_complete):
            return True
        unsent = unsent_journals(records_folder(), run.run_id)
        with suppress(InputError):  # it stays in the folder
            for folder in unsent:
                send_unsent(folder)
        return bool(unsent) and with_retries(is_complete)
    except MlflowException as error:
        raise unusable(error) from error


def _gap_sender(run_id: str) -> Send:
    """Return a sender that only sends metrics and files that the run lacks."""
    client, send = mlflow.MlflowClient(), sender(run_id)

    def exists(entry: Entry) -> bool:
        if entry["what"] == "metrics":
            steps = [{point.step for point in client.get_metric_history(run_id, name)} for name in entry["values"]]
            return all(entry["step"] in each for each in steps)
        if entry["what"] == "artifacts":
            folder = posixpath.dirname(entry["path"]) or None
            return any(file.path == entry["path"] for file in client.list_artifacts(run_id, folder))
        if entry["what"] == "untag" and all(name.startswith(JOINED) for name in entry["values"]):
            return False  # only the ended process records that it has left the run
        return entry["what"] in ("tags", "untag", "end")  # the run's current values are newer

    def send_if_missing(entry: Entry, files: Path) -> None:
        if not exists(entry):
            send(entry, files)

    return send_if_missing
