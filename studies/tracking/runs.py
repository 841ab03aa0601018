"""Open and close MLflow runs. A run's status is true: FINISHED, FAILED, or KILLED, with the reason as a tag."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

import studies.tracking.store as store
from segmentation.errors import InputError, counted
from segmentation.system import interruption
from segmentation.system.processes import is_dead, is_same, me, parsed
from studies.base.errors import unusable
from studies.base.opened_run import NOTE, REASON
from studies.tracking.journal import Entry, Journal, LostRunError, Send
from studies.tracking.notes import is_reason, reason_tags
from studies.tracking.run_journals import (
    add_open,
    has_open,
    journal_of,
    open_journal,
    open_run,
    print_message,
    print_unsent,
    remove_open,
)
from studies.tracking.run_tags import (
    JOINED,
    PROCESS,
    code_tags,
    joined_tag,
    process_of,
    processes_of,
)
from studies.tracking.sending import deleted, metrics_entry, now, sender
from studies.tracking.shared_view import share_view
from studies.tracking.store import check_store, experiment_id, with_retries, with_timeout
from studies.tracking.system_metrics import SystemMetrics, next_step


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised to end a run before its last epoch; the message is the reason. The run ends as KILLED."""


OWNER_CHECK_SECONDS = 5.0
"""A process checks at this interval that no other process has resumed its run."""


class _OpenRun(NamedTuple):
    run_id: str
    journal: Journal
    monitor: SystemMetrics
    others: Callable[[], bool] | None
    remedy: Callable[[str], str]


@contextmanager
def tracked_run(
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
    shared: bool = False,
    others: Callable[[], bool] = lambda: False,
    remedy: Callable[[str], str] = lambda run_id: "",
) -> Iterator[str]:
    """Open an MLflow run, or use the one that `mlflow run` has opened, and close it with its true status.

    Everything logged inside goes through a journal, so MLflow may be unreachable meanwhile. Entries that are unsent at
    the end stay in the journal, and a message prints the command that sends them later.

    Args:
        experiment: its experiment, unless `mlflow run` has chosen one.
        name: its name.
        tags: further tags.
        run_id: an existing run to resume. Another process that still works on it can log nothing from then on.
        shared: several processes work on the run at the same time.
        others: returns whether other processes still work on a shared run. The last one sets its status.
        remedy: returns, for the run's ID, what to do if the run does not finish; its description then contains it.

    Yields:
        The run's ID. An exception inside ends the run as FAILED, an interruption or `Stopped` as KILLED; the tag
        `status_reason` holds the reason.

    Raises:
        InputError: the tracking store cannot be reached or has refused an entry, or another process has resumed the
            run.
    """
    check_store(store.RETRY_SECONDS if run_id else 0.0)
    given = run_id or os.environ.pop("MLFLOW_RUN_ID", None)
    opened = _open(experiment, name, tags, given, others if shared else None, remedy)
    journal = opened.journal
    try:
        yield opened.run_id
    except Stopped as reason:
        _close(opened, "KILLED", str(reason))
        raise
    except BaseException as error:
        if stopped := interruption.stopped_by(error):
            _close(opened, "KILLED", _killed_by(stopped), hurried=True)
            raise stopped from error
        _close(opened, "FAILED", f"{type(error).__name__}: {error}")
        if isinstance(error, MlflowException):
            raise unusable(error) from error
        raise
    _close(opened, "FINISHED")
    if journal.lost or journal.incomplete:
        raise InputError(journal.lost or journal.incomplete)


def create_run(experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Create a run without opening it; return its ID. With `parent` it is nested in that run and its experiment."""
    check_store(store.RETRY_SECONDS)
    all_tags = {**tags, PROCESS: json.dumps(me())}

    def create() -> Run:
        client = mlflow.MlflowClient()
        if parent is None:
            return client.create_run(experiment_id(experiment), tags=all_tags, run_name=name)
        chosen = client.get_run(parent).info.experiment_id
        return client.create_run(chosen, tags={**all_tags, "mlflow.parentRunId": parent}, run_name=name)

    try:
        return str(with_retries(create).info.run_id)
    except MlflowException as error:
        raise unusable(error) from error


def reopen_run(run_id: str) -> None:
    """Set the status of a run to RUNNING."""
    with_retries(lambda: mlflow.MlflowClient().update_run(run_id, status="RUNNING"))


def end_run(run_id: str, status: str, reason: str | None = None, remedy: str = "") -> None:
    """Set the final status of a run that this process has not opened, and the reason unless it is FINISHED.

    The description of an unfinished run then begins with the reason and the next step.
    """
    with journal_of(run_id) as journal:
        if reason is None:
            journal.add("records", {"what": "untag", "values": [REASON]})
        _add_end(journal, run_id, status, reason, remedy)


def leave_run(run_id: str, into: str) -> None:
    """Finish the run that `mlflow run` has opened, and nest it in the run `into` that is resumed instead.

    It cannot be deleted: `mlflow run` sets its status at the end and fails if it is missing.
    """
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "mlflow.parentRunId", into)
    client.set_tag(run_id, "kind", "resume")
    client.update_run(run_id, status="FINISHED", name="resumed")


@contextmanager
def joined(run_id: str) -> Iterator[None]:
    """Tag a shared run, which this process has not opened, with this process while it works on it."""
    _add_record(run_id, {"what": "tags", "values": {joined_tag(): json.dumps(me())}})
    try:
        yield
    finally:
        _add_record(run_id, {"what": "untag", "values": [joined_tag()]})


def _add_record(run_id: str, entry: Entry) -> None:
    with journal_of(run_id) as journal:
        journal.add("records", entry)


def _open(
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None,
    others: Callable[[], bool] | None,
    remedy: Callable[[str], str],
) -> _OpenRun:
    """Start a run, its journal and its system metrics; if that fails, the run does not stay RUNNING."""
    journal = None
    try:
        run = _start(experiment, name, tags, run_id, others is not None)
        run_id = run.info.run_id
        share_view(run.info.experiment_id)
        journal = open_journal(run_id, sender(run_id) if others else _owner_sender(run_id))
        monitor = SystemMetrics(run_id, partial(_log_sample, journal), next_step(run))
        monitor.start()
    except BaseException as error:
        if journal is not None:
            journal.close()
        if run_id is not None:
            _abandon(run_id, error)
        if isinstance(error, InputError) or not isinstance(error, (MlflowException, OSError)):
            raise
        raise unusable(error) from error
    add_open(run_id, journal)
    return _OpenRun(run_id, journal, monitor, others, remedy)


def _start(experiment: str, name: str, tags: Mapping[str, str], run_id: str | None, shared: bool) -> Run:
    """Create a run, or set an existing one to RUNNING."""
    client = mlflow.MlflowClient()
    tags = {**code_tags(), **tags, PROCESS: json.dumps(me())}
    if shared:
        tags[joined_tag()] = tags[PROCESS]
    if run_id is None:
        if has_open():
            tags["mlflow.parentRunId"] = open_run()
        return client.create_run(experiment_id(experiment), tags=resolve_tags(tags), run_name=name)
    run = with_retries(lambda: client.get_run(run_id))
    if run.info.lifecycle_stage != "active":
        raise InputError(deleted(run_id))
    client.update_run(run_id, status="RUNNING", name=name)
    # in one request: MLflow's `set_tag` fails if two processes set the same new tag at the same time
    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    dead = [key for key, value in run.data.tags.items() if key.startswith(JOINED) and is_dead(parsed(value))]
    stale = [REASON, NOTE] if is_reason(run.data.tags) else [REASON]
    for key in [*dead, *stale]:
        if key in run.data.tags:
            with suppress(MlflowException):  # another process may have deleted it since
                client.delete_tag(run_id, key)
    return run


def _abandon(run_id: str, error: BaseException) -> None:
    """End a run without a journal, if MLflow answers soon and no other process works on the run."""
    stopped = interruption.stopped_by(error)
    status = "KILLED" if stopped else "FAILED"
    reason = _killed_by(stopped) if stopped else f"{type(error).__name__}: {error}"

    def end() -> None:
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        others = [each for each in processes_of(run) if not is_same(each, me()) and is_dead(each) is not True]
        if run.info.status == "RUNNING" and not others:
            for key, value in reason_tags(run_id, status, reason).items():
                client.set_tag(run_id, key, value)
            client.set_terminated(run_id, status)

    with suppress(Exception):  # the first error is raised, not this one
        with_timeout(end, min(interruption.STOP_SECONDS, interruption.seconds_left()))


def _close(opened: _OpenRun, status: str, reason: str | None = None, hurried: bool = False) -> None:
    """End a run once everything is sent, or MLflow has accepted nothing for `store.RETRY_SECONDS`.

    Args:
        opened: the run.
        status: MLflow's name of the status; a run that lacks a refused entry is FAILED.
        reason: why it did not finish.
        hurried: this process may be killed in seconds: record the end first, then wait a few seconds only.
    """
    run_id, journal = opened.run_id, opened.journal
    opened.monitor.finish()
    try:
        if hurried:
            _record_end(opened, status, reason)
            journal.wait(interruption.STOP_SECONDS, at_most=interruption.STOP_SECONDS)
        elif not journal.wait(0.0):
            print_message(f"Waiting for MLflow to accept {counted(journal.unsent(), 'record')}.")
            journal.wait(store.RETRY_SECONDS)
        if status == "FINISHED" and (journal.lost or journal.incomplete):
            status, reason = "FAILED", journal.lost or journal.incomplete
    finally:
        remove_open(run_id, journal)
        if not hurried:
            _record_end(opened, status, reason)
            journal.wait(0.0)
        journal.close()
        print_unsent(journal, run_id)


def _record_end(opened: _OpenRun, status: str, reason: str | None) -> None:
    """Record the status of a run; of a shared run only if no other process works on it."""
    if opened.others is not None:
        opened.journal.add("records", {"what": "untag", "values": [joined_tag()]})
        with suppress(Exception):  # `others` may fail for the same reason as the run, such as a lost database
            if opened.others():
                return
    remedy = "" if reason is None else opened.remedy(opened.run_id)
    _add_end(opened.journal, opened.run_id, status, reason, remedy)


def _add_end(journal: Journal, run_id: str, status: str, reason: str | None, remedy: str) -> None:
    if reason is not None:
        journal.add("records", {"what": "tags", "values": reason_tags(run_id, status, reason, remedy)})
    journal.add("records", {"what": "end", "status": status, "time": now()})


def _killed_by(error: KeyboardInterrupt) -> str:
    return f"killed by {error}" if str(error) else "interrupted"


def _owner_sender(run_id: str) -> Send:
    """Return a sender that stops once another process has resumed the run, because this one was presumed dead."""
    send, checked = sender(run_id), time.monotonic()

    def send_as_owner(entry: Entry, files: Path) -> None:
        nonlocal checked
        at = time.monotonic()
        if at - checked > OWNER_CHECK_SECONDS:
            process = process_of(mlflow.MlflowClient().get_run(run_id))
            if process and not is_same(process, me()):
                raise LostRunError(
                    f"process {process.get('pid')} on {process.get('host')} has resumed run {run_id}, because this "
                    f"process was presumed dead",
                    keep=False,
                )
            checked = at
        send(entry, files)

    return send_as_owner


def _log_sample(journal: Journal, metrics: Mapping[str, float], step: int) -> None:
    with suppress(InputError):  # a full disk: the main thread reports it
        journal.add("records", metrics_entry(metrics, step))
