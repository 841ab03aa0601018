"""Send the records that MLflow did not accept while a run was under way."""

from pathlib import Path

from segmentation.errors import InputError, counted
from studies import tracking
from studies.config import SyncConfig
from studies.tracking.journal import all_journals, refused, run_of, unsent_journals
from studies.tracking.ownership import is_left


def send_records(config: SyncConfig) -> None:
    """Send the unsent records of all runs, or of one run.

    Without `run_id`, records of other machines and containers are skipped: their processes may still be alive there.

    Raises:
        InputError: some records could not be sent, or MLflow refused them.
    """
    tracking.keep_records_in(config.records)
    folders = _folders(config)
    if not folders:
        print(f"No unsent records in {config.records}.")
    failed = []
    for folder in folders:
        if failure := _send(folder, config.again):
            failed.append(failure)
    if failed:
        raise InputError("some records were not sent; nothing is lost:\n" + "\n".join(f"  {each}" for each in failed))
    others = len(all_journals(Path(config.records)))
    if others and config.run_id is None:
        print(
            f"Records of {counted(others, 'other run')} stay in {config.records}: refused ones, or those of a process "
            f"that may be alive. `doctor` lists the refused ones. Those of a dead container or machine need its run: "
            f"--run_id ID"
        )


def _folders(config: SyncConfig) -> list[Path]:
    """Return the journals to send."""
    parent = Path(config.records)
    journals = all_journals(parent, config.run_id)
    if config.run_id is not None:
        if not journals:
            raise InputError(f"run_id={config.run_id}: {parent} holds no records of that run")
        return journals
    found = set(unsent_journals(parent))
    if config.again:
        found |= {folder for folder in journals if refused(folder) and is_left(folder)}
    return sorted(found)


def _send(folder: Path, again: bool) -> str | None:
    """Send one journal; return why it could not be sent, or None."""
    try:
        unsent = tracking.send_unsent(folder, again)
    except InputError as error:
        return f"{folder}: {error}"
    if unsent:
        return f"{folder}: MLflow did not accept {counted(unsent, 'record')}"
    if message := tracking.refused_summary(folder):
        return message
    print(f"Run {run_of(folder)}: all records are sent.")
    print(tracking.where_to_look(run_of(folder)))
    return None
