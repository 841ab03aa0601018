"""Joins everything that is wrong with a data set into one error message."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from segmentation.errors import InputError

MAX_LISTED = 20
"""Faults in one message; the others are counted."""
MAX_LETTERS = 1000
"""Letters of one fault in a message with several."""
Opened = TypeVar("Opened")


class DataFaultsError(InputError):
    """Files of a data set are wrong. The message lists up to `MAX_LISTED` faults and counts the others."""

    def __init__(self, faults: Sequence[str], where: str) -> None:
        lines = [*faults]
        if len(faults) > 1:
            lines = [f"{len(faults)} faults in {where}:"]
            lines += [
                f"  {each if len(each) <= MAX_LETTERS else each[:MAX_LETTERS] + '…'}" for each in faults[:MAX_LISTED]
            ]
        if len(faults) > MAX_LISTED:
            lines.append(f"  and {len(faults) - MAX_LISTED} more")
        super().__init__("\n".join(lines))
        self.faults = faults
        self.where = where


def refuse(faults: Sequence[str], where: str) -> None:
    """Raise a `DataFaultsError` if there are faults.

    Args:
        faults: messages, each with its file.
        where: of the data set.
    """
    if faults:
        raise DataFaultsError(faults, where)


def together(openers: Iterable[Callable[[], Opened]]) -> list[Opened]:
    """Return what several functions return, such as the splits of a data set.

    Raises:
        DataFaultsError: with the faults that all of them found.
        InputError: another error of the first function that has one.
    """
    opened: list[Opened] = []
    faults: list[str] = []
    where = ""
    for opener in openers:
        try:
            opened.append(opener())
        except DataFaultsError as error:
            faults += [fault for fault in error.faults if fault not in faults]
            where = error.where
        except InputError:
            if not faults:
                raise
    refuse(faults, where)
    return opened
