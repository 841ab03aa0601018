"""Errors that a user can fix, with messages in the terms of fields and files."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An input of the user is wrong. The message says what is wrong, where, and what to do."""


class DivergedError(InputError):
    """The loss is no longer finite. The message names the epoch, the step and the learning rate."""


def one_of(field: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if `known` contains it; otherwise raise an `InputError` that suggests the most similar value."""
    known = list(known)
    if value in known:
        return value
    nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(f"{field}={value!r} is not known.{hint} Known: {', '.join(known)}.")


def listed(items: Iterable[str], at_most: int = 5) -> str:
    """Join the first `at_most` items for a message, shorten very long ones, and add the number of the others."""
    items = list(items)
    rest = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return ", ".join(item if len(item) <= 300 else f"{item[:200]}…{item[-99:]}" for item in items[:at_most]) + rest
