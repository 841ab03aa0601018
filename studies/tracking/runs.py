"""One piece of work as one MLflow run, with a status that tells the truth."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from tqdm import tqdm

from segmentation.errors import InputError
from segmentation.system import interruption
from segmentation.system.processes import is_dead, is_same, me, parsed
from studies.base.errors import unusable
from studies.base.redaction import without_password
from studies.base.rerun import here
from studies.tracking.journal import Entry, Journal, LostRunError, Send, places
from studies.tracking.ownership import ClaimedError
from studies.tracking.sending import allowed, deleted, sender
from studies.tracking.store import PATIENCE, check_store, experiment_id, patiently, promptly
from studies.tracking.system_metrics import SystemMetrics


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A training is to end before its last epoch; the message says why. Its run ends as KILLED."""


REASON = "status_reason"
"""Tag that says why a run did not finish."""
VERSIONS_OF = ("torch", "torchvision", "mlflow", "numpy")
PROCESS = "process"
"""Tag of a run: the process that does it, or joined it last."""
JOINED = f"{PROCESS}."
"""Begin of the tags of a shared run: one for each process that is at it."""
UNSENT = Path("unsent")
"""Default folder of the journals of runs; a journal stays while not all of it is sent."""
LATEST_SECONDS = 5.0
"""After so long, whoever is at a run asks whether they still are; nobody is taken for dead before."""


class _OpenRun(NamedTuple):
    run_id: str
    journal: Journal
    monitor: SystemMetrics
    others: Callable[[], bool] | None


_records = [UNSENT]
"""The folder that this process keeps journals in."""
_open: list[_OpenRun] = []
"""The runs that this process is in the middle of, the innermost last."""


def keep_records_in(folder: str | Path) -> None:
    """Keep the journals that this process opens from now on in a folder: the field `records`."""
    _records[0] = Path(folder)


def records_folder() -> Path:
    """The folder that this process keeps journals in."""
    return _records[0]


def how_to_sync(again: bool = False) -> str:
    """The command that sends what MLflow has not taken of this process's runs, with `again` also what it refused."""
    return here("sync", {"records": str(records_folder()), "again": again})


@contextmanager
def tracked_run(
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
    shared: bool = False,
    others: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Open an MLflow run, or the one that `mlflow run` has opened, and close it with the status it deserves.

    What is logged inside goes through a journal, so that MLflow may be away meanwhile. What could not be sent by the
    end stays in the journal, and a line says how to send it later.

    Args:
        experiment: its experiment, unless `mlflow run` has chosen one.
        name: its name.
        tags: further tags.
        run_id: a run that is there already, to resume. A process that is still at it can add nothing any more.
        shared: several processes are at the run at the same time, and none takes it over.
        others: whether others are at a shared run when this process leaves it; the last one gives it its status.

    Yields:
        The run's id. An exception inside ends the run as FAILED, an interruption or `Stopped` as KILLED, and the tag
        `status_reason` says why.

    Raises:
        InputError: the tracking store cannot be reached, or has refused what was logged, or another process has resumed
            the run.
    """
    check_store(PATIENCE if run_id else 0.0)
    opened = _opened(
        experiment, name, tags, run_id or os.environ.pop("MLFLOW_RUN_ID", None), others if shared else None
    )
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
    if journal.lost or journal.spoiled:
        raise InputError(journal.lost or journal.spoiled)


def _killed_by(error: KeyboardInterrupt) -> str:
    return f"killed by {error}" if str(error) else "interrupted"


def _opened(
    experiment: str, name: str, tags: Mapping[str, str], run_id: str | None, others: Callable[[], bool] | None
) -> _OpenRun:
    """Begin a run and its journal; a run whose opening fails does not stay RUNNING."""
    journal = None
    try:
        run = _begun(experiment, name, tags, run_id, others is not None)
        run_id = run.info.run_id
        journal = _opened_journal(run_id, sender(run_id) if others else _sender_of_the_latest(run_id))
        opened = _OpenRun(run_id, journal, SystemMetrics(run_id, partial(_log_sample, journal)), others)
        opened.monitor.start()
    except BaseException as error:
        if journal is not None:
            journal.close()
        if run_id is not None:
            _abandon(run_id, error)
        if isinstance(error, InputError) or not isinstance(error, (MlflowException, OSError)):
            raise
        raise unusable(error) from error
    _open.append(opened)
    return opened


def _abandon(run_id: str, error: BaseException) -> None:
    """End a run without a journal, as far as MLflow answers at once and no other process is at it."""
    stopped = interruption.stopped_by(error)
    status = "KILLED" if stopped else "FAILED"
    reason = _killed_by(stopped) if stopped else f"{type(error).__name__}: {error}"

    def end() -> None:
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        others = [each for each in processes_of(run) if not is_same(each, me()) and is_dead(each) is not True]
        if run.info.status == "RUNNING" and not others:
            client.set_tag(run_id, REASON, without_password(reason)[:5000])
            client.set_terminated(run_id, status)

    with suppress(Exception):  # what has failed is raised, not this
        promptly(end, min(interruption.STOP_SECONDS, interruption.seconds_left()))


def _begun(experiment: str, name: str, tags: Mapping[str, str], run_id: str | None, shared: bool) -> Run:
    """A run that is RUNNING: a new one, or one that is there."""
    client = mlflow.MlflowClient()
    tags = {"git_commit": _git_commit(), **_versions(), **tags, PROCESS: json.dumps(me())}
    if shared:
        tags[_joined_as()] = tags[PROCESS]
    if run_id is None:
        if _open:
            tags["mlflow.parentRunId"] = open_run()
        return client.create_run(experiment_id(experiment), tags=resolve_tags(tags), run_name=name)
    run = patiently(lambda: client.get_run(run_id))
    if run.info.lifecycle_stage != "active":
        raise InputError(deleted(run_id))
    client.update_run(run_id, status="RUNNING", name=name)
    # at once: MLflow's `set_tag` fails where two processes set a tag that is new at the same moment
    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    gone = [key for key, value in run.data.tags.items() if key.startswith(JOINED) and is_dead(parsed(value))]
    for key in [*gone, REASON]:
        if key in run.data.tags:
            with suppress(MlflowException):  # another process that joins at this moment was faster
                client.delete_tag(run_id, key)
    return run


def _joined_as() -> str:
    """The tag by which this process says that it is at a shared run."""
    return JOINED + hashlib.sha256(json.dumps(me()).encode()).hexdigest()[:12]


@contextmanager
def joined(run_id: str) -> Iterator[None]:
    """Say on a shared run, which this process does not have open, that it is at it."""
    _record_at(run_id, {"what": "tags", "values": {_joined_as(): json.dumps(me())}})
    try:
        yield
    finally:
        _record_at(run_id, {"what": "untag", "values": [_joined_as()]})


def _record_at(run_id: str, entry: Entry) -> None:
    with journal_of(run_id) as journal:
        journal.add("records", entry)


def _close(opened: _OpenRun, status: str, reason: str | None = None, hurried: bool = False) -> None:
    """End a run when everything is sent, or when nobody has listened for `PATIENCE` seconds.

    Args:
        opened: the run.
        status: as MLflow knows it; a run that lacks what was refused is FAILED.
        reason: why it did not finish.
        hurried: this process may be killed in seconds: record the end first, then wait for little.
    """
    run_id, journal = opened.run_id, opened.journal
    opened.monitor.finish()
    try:
        if hurried:
            _record_end(opened, status, reason)
            journal.wait(interruption.STOP_SECONDS, at_most=interruption.STOP_SECONDS)
        elif not journal.wait(0.0):
            tell(f"Waiting for MLflow, which has not yet taken {journal.unsent()} record(s).")
            journal.wait(PATIENCE)
        if status == "FINISHED" and (journal.lost or journal.spoiled):
            status, reason = "FAILED", journal.lost or journal.spoiled
    finally:
        _open.remove(opened)
        if not hurried:
            _record_end(opened, status, reason)
            journal.wait(0.0)
        journal.close()
        _tell_what_is_left(journal, run_id)


def _record_end(opened: _OpenRun, status: str, reason: str | None) -> None:
    """Record the status of a run; a run that others share only if they have left it."""
    if opened.others is not None:
        opened.journal.add("records", {"what": "untag", "values": [_joined_as()]})
        with suppress(Exception):  # their database may be what has failed
            if opened.others():
                return
    _add_end(opened.journal, status, reason)


def _tell_what_is_left(journal: Journal, run_id: str) -> None:
    if journal.unsent():
        tell(
            f"{journal.unsent()} record(s) of run {run_id} were not taken by MLflow. They are kept in "
            f"{journal.folder}; to send them when it answers again:\n  {how_to_sync()}"
        )
    if journal.refusals:
        tell(
            f"{len(journal.refusals)} record(s) of run {run_id} were refused and set aside in {journal.folder}; "
            f"`doctor` lists them. The first: {journal.refusals[0]}"
        )


def _add_end(journal: Journal, status: str, reason: str | None) -> None:
    if reason is not None:
        journal.add("records", {"what": "tags", "values": {REASON: without_password(reason)[:5000]}})
    journal.add("records", {"what": "end", "status": status, "time": now()})


def _sender_of_the_latest(run_id: str) -> Send:
    """What sends as long as no other process has gone on with the run: this one may have been taken for dead."""
    send, seen = sender(run_id), time.monotonic()

    def send_if_latest(entry: Entry, files: Path) -> None:
        nonlocal seen
        now = time.monotonic()
        if now - seen > LATEST_SECONDS:
            process = process_of(mlflow.MlflowClient().get_run(run_id))
            if process and not is_same(process, me()):
                raise LostRunError(
                    f"process {process.get('pid')} on {process.get('host')} has gone on with run {run_id}, since this "
                    f"process seemed to be dead",
                    keep=False,
                )
            seen = now
        send(entry, files)

    return send_if_latest


def process_of(run: Run) -> Mapping[str, Any]:
    """The process that was at a run last, as `processes.me` has told; empty if it is not known."""
    return parsed(run.data.tags.get(PROCESS, ""))


def processes_of(run: Run) -> list[Mapping[str, Any]]:
    """The processes that are at a run: those that share it, or the one that was at it last."""
    sharing: list[Mapping[str, Any]] = [parsed(value) for key, value in run.data.tags.items() if key.startswith(JOINED)]
    return [process for process in sharing or [process_of(run)] if process]


def _opened_journal(run_id: str, send: Send) -> Journal:
    """A journal of a run that this process alone has."""

    def told(error: str) -> None:
        if error:
            why = without_password(error)[:160]  # in this order: half a password would not be known as one
            tell(f"MLflow takes no records ({why}): they are kept in {records_folder()} until it does.")
        else:
            tell("MLflow takes records again.")

    for folder in places(records_folder(), run_id):
        with suppress(ClaimedError):
            return Journal(folder, send, told)
    raise AssertionError("there are endless places")


@contextmanager
def journal_of(run_id: str | None = None) -> Iterator[Journal]:
    """The journal of a run, by default of the one that is open here; one that is not open is sent at once."""
    opened = next((each for each in reversed(_open) if run_id in (None, each.run_id)), None)
    if opened is not None:
        if opened.journal.lost:
            raise InputError(opened.journal.lost)
        yield opened.journal
        return
    assert run_id is not None
    journal = _opened_journal(run_id, sender(run_id))
    try:
        yield journal
        journal.wait(PATIENCE)
    finally:
        journal.close()
    if journal.refusals:
        _tell_what_is_left(journal, run_id)
    if journal.lost:
        raise InputError(journal.lost)


def open_run() -> str:
    """The id of the innermost run that this process is in the middle of."""
    return _open[-1].run_id


def wait_until_sent(run_id: str | None = None) -> bool:
    """Wait until MLflow has taken all that was logged so far in a run, by default the open one; returns whether it has.

    Raises:
        InputError: MLflow has refused something without which the run is not what it should be.
    """
    with journal_of(run_id) as journal:
        is_sent = journal.wait(PATIENCE)
        if journal.spoiled:
            raise InputError(journal.spoiled)
        return is_sent


def create_run(experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Make a run, nested in another one and in its experiment if that is given, and leave it open; returns its id."""
    check_store(PATIENCE)
    told = {**tags, PROCESS: json.dumps(me())}

    def create() -> Run:
        client = mlflow.MlflowClient()
        if parent is None:
            return client.create_run(experiment_id(experiment), tags=told, run_name=name)
        chosen = client.get_run(parent).info.experiment_id
        return client.create_run(chosen, tags={**told, "mlflow.parentRunId": parent}, run_name=name)

    try:
        return str(patiently(create).info.run_id)
    except MlflowException as error:
        raise unusable(error) from error


def describe_run(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Name and tag a run that this process does not have open."""
    with journal_of(run_id) as journal:
        journal.add("records", {"what": "tags", "values": {"mlflow.runName": name, **tags}})


def reopen_run(run_id: str) -> None:
    """Mark a run as RUNNING."""
    patiently(lambda: mlflow.MlflowClient().update_run(run_id, status="RUNNING"))


def end_run(run_id: str, status: str, reason: str | None = None) -> None:
    """Give a run that this process does not have open its last status, and the reason unless it is FINISHED."""
    with journal_of(run_id) as journal:
        if reason is None:
            journal.add("records", {"what": "untag", "values": [REASON]})
        _add_end(journal, status, reason)


def leave_run(run_id: str, into: str) -> None:
    """Finish a run that `mlflow run` has opened for work that is done in another one, and put it below that one.

    It cannot be deleted: `mlflow run` ends it once more afterwards, and fails where it is not there.
    """
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "mlflow.parentRunId", into)
    client.set_tag(run_id, "kind", "resume")
    client.update_run(run_id, status="FINISHED", name="resumed")


def tag_reason(run_id: str, reason: str) -> None:
    """Say on a run why it did not finish, as far as the store can be reached."""
    with suppress(MlflowException, InputError):
        check_store()
        mlflow.MlflowClient().set_tag(run_id, REASON, without_password(reason)[:5000])


def _log_sample(journal: Journal, metrics: Mapping[str, float], step: int) -> None:
    with suppress(InputError):  # a full disk is told to who trains
        journal.add("records", metrics_entry(metrics, step))


def metrics_entry(metrics: Mapping[str, float], step: int | None) -> Entry:
    """Figures of one moment as an entry of a journal; those that are not numbers are left out."""
    values = {allowed(name): float(value) for name, value in metrics.items() if value == value}
    return {"what": "metrics", "values": values, "step": step or 0, "time": now()}


def tell(what: str) -> None:
    """Say something beside the progress bars."""
    tqdm.write(without_password(what), file=sys.stderr)


def now() -> int:
    """Milliseconds of Unix time."""
    return time.time_ns() // 10**6


def _git_commit() -> str:
    """The commit of this code, marked when files differ from it; `unknown` outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


def _versions() -> dict[str, str]:
    return {f"version.{package}": version(package) for package in VERSIONS_OF}
