"""Joins everything that is wrong with a data set into one error message."""

from collections.abc import Sequence

from segmentation.errors import InputError

MAX_LISTED = 20
"""Faults in one message; the others are counted."""
MAX_LETTERS = 1000
"""Letters of one fault in a message with several."""


def refuse(faults: Sequence[str], where: str) -> None:
    """Raise an `InputError` that lists the faults, up to `MAX_LISTED` and then a count. Does nothing if there are none.

    Args:
        faults: messages, each with its file.
        where: of the data set.
    """
    if not faults:
        return
    if len(faults) == 1:
        raise InputError(faults[0])
    lines = [f"{len(faults)} faults in {where}:"]
    lines += [f"  {fault if len(fault) <= MAX_LETTERS else fault[:MAX_LETTERS] + '…'}" for fault in faults[:MAX_LISTED]]
    if len(faults) > MAX_LISTED:
        lines.append(f"  and {len(faults) - MAX_LISTED} more")
    raise InputError("\n".join(lines))
