"""The journals of the runs that this process logs to: open one, find the one of a run, wait until all is sent."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

import studies.tracking.store as store
from segmentation.errors import InputError, counted
from studies.base.redaction import without_password
from studies.base.rerun import here
from studies.tracking.journal import Journal, Send, journal_folders
from studies.tracking.ownership import ClaimedError
from studies.tracking.sending import sender

UNSENT = Path("unsent")
"""Default folder of the journals. A journal stays there until all its entries are sent."""

_folder = [UNSENT]
"""The folder of this process's journals."""
_open: list[tuple[str, Journal]] = []
"""The runs that this process has opened, each with its journal, the innermost last."""


def keep_records_in(folder: str | Path) -> None:
    """Set the folder of the journals that this process opens from now on: the field `records`."""
    _folder[0] = Path(folder)


def records_folder() -> Path:
    """Return the folder of this process's journals."""
    return _folder[0]


def sync_command(again: bool = False) -> str:
    """Return the command that sends unsent records of this process's runs; with `again` also the refused ones."""
    return here("sync", {"records": str(records_folder()), "again": again})


def open_journal(run_id: str, send: Send) -> Journal:
    """Open a journal of a run that no other process has open."""

    def report(error: str) -> None:
        if error:
            why = without_password(error)[:160]  # in this order: a cut password would not be recognized
            print_message(f"MLflow does not accept records ({why}): they are kept in {records_folder()} until it does.")
        else:
            print_message("MLflow accepts records again.")

    for folder in journal_folders(records_folder(), run_id):
        with suppress(ClaimedError):
            return Journal(folder, send, report)
    raise AssertionError("there is always another folder")


@contextmanager
def journal_of(run_id: str | None = None) -> Iterator[Journal]:
    """Yield the journal of a run, by default of the open one.

    Entries of a run that this process has not opened are sent when the context ends.
    """
    for open_id, journal in reversed(_open):
        if run_id in (None, open_id):
            if journal.lost:
                raise InputError(journal.lost)
            yield journal
            return
    assert run_id is not None
    journal = open_journal(run_id, sender(run_id))
    try:
        yield journal
        journal.wait(store.RETRY_SECONDS)
    finally:
        journal.close()
    if journal.refusals:
        print_unsent(journal, run_id)
    if journal.lost:
        raise InputError(journal.lost)


def add_open(run_id: str, journal: Journal) -> None:
    """Make a run the one that this process logs to."""
    _open.append((run_id, journal))


def remove_open(run_id: str, journal: Journal) -> None:
    """Undo `add_open`."""
    _open.remove((run_id, journal))


def has_open() -> bool:
    """Return whether this process has opened a run."""
    return bool(_open)


def open_run() -> str:
    """Return the ID of the innermost run that this process has opened."""
    return _open[-1][0]


def wait_until_sent(run_id: str | None = None) -> bool:
    """Wait until MLflow has accepted everything logged so far in a run, by default the open one; return whether it has.

    Raises:
        InputError: MLflow has refused an entry without which the run is incomplete.
    """
    with journal_of(run_id) as journal:
        is_sent = journal.wait(store.RETRY_SECONDS)
        if journal.incomplete:
            raise InputError(journal.incomplete)
        return is_sent


def print_unsent(journal: Journal, run_id: str) -> None:
    """Print how many records of a run are unsent or refused, and how to send them."""
    if journal.unsent():
        print_message(
            f"MLflow did not accept {counted(journal.unsent(), 'record')} of run {run_id}. They are kept in "
            f"{journal.folder}. Send them when it answers again:\n  {sync_command()}"
        )
    if journal.refusals:
        print_message(
            f"MLflow refused {counted(len(journal.refusals), 'record')} of run {run_id}. They are set aside in "
            f"{journal.folder}; `doctor` lists them. The first: {journal.refusals[0]}"
        )


def print_message(text: str) -> None:
    """Print a line to stderr without breaking the progress bars."""
    tqdm.write(without_password(text), file=sys.stderr)
