"""Errors that a user can mend, told in the user's own terms."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do about it."""


class DivergedError(InputError):
    """The loss stopped being a finite number; the message names the epoch, the step and the learning rate."""


def one_of(field: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is among `known`; otherwise raise an `InputError` that suggests the nearest."""
    known = list(known)
    if value in known:
        return value
    nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(f"{field}={value!r} is not known.{hint} Known: {', '.join(known)}.")


def listed(items: Iterable[str], at_most: int = 5) -> str:
    """Join the first few `items` for a message, the middle of very long ones left out, and count the rest."""
    items = list(items)
    rest = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return ", ".join(item if len(item) <= 300 else f"{item[:200]}…{item[-99:]}" for item in items[:at_most]) + rest
