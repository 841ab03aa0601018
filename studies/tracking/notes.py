"""The description on a run's page: what a command logs, and above it why a run did not finish."""

from collections.abc import Mapping

from studies.base.markdown import escaped
from studies.base.opened_run import NOTE, REASON, REASON_LENGTH
from studies.base.redaction import without_password

NOTE_LENGTH = 7900
"""Characters that a tag can hold."""
HEADINGS = {"KILLED": "**Stopped:**", "FAILED": "**Failed:**"}
"""Start of the description of a run that did not finish, by its status."""

_logged: dict[str, str] = {}
"""The descriptions that this process has logged, by run."""


def note_tag(run_id: str, text: str) -> dict[str, str]:
    """Return the tag that sets a run's description. Lines beyond MLflow's limit are left out."""
    lines, room = [], NOTE_LENGTH
    for line in without_password(text).strip().splitlines():
        room -= len(line) + 1
        if room < 0:
            lines.append("…")
            break
        lines.append(line)
    _logged[run_id] = "\n".join(lines)
    return {NOTE: _logged[run_id]}


def reason_tags(run_id: str, status: str, reason: str, remedy: str = "") -> dict[str, str]:
    """Return the tags of a run that did not finish. Its description begins with the reason and the remedy.

    Args:
        run_id: the run.
        status: MLflow's name of the status.
        reason: why it did not finish.
        remedy: what to do: lines of text; those that begin with spaces are commands.
    """
    reason = without_password(reason)[:REASON_LENGTH]
    first, *others = reason.splitlines() or [""]
    lines = [f"{HEADINGS.get(status, '**Not finished:**')} {escaped(first)}"]
    lines += ["", *(f"- {escaped(line)}" for line in others)] if others else []
    lines += [
        part
        for line in remedy.splitlines()
        for part in (("```", line.strip(), "```") if line.startswith(" ") else ("", line))
    ]
    before = _logged.get(run_id, "")
    return {REASON: reason, **note_tag(run_id, "\n".join([*lines, "", before]))}


def is_reason(tags: Mapping[str, str]) -> bool:
    """Return whether the description of a run, given by its tags, says why it did not finish."""
    return tags.get(NOTE, "").startswith(tuple(HEADINGS.values()))
