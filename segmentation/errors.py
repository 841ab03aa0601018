"""Errors that a user can fix, with messages in the terms of fields and files."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any


class InputError(ValueError):
    """An input of the user is wrong. The message says what is wrong, where, and what to do."""

    @property
    def mistakes(self) -> tuple[str, ...]:
        """The messages of all mistakes."""
        return (str(self),)


class SeveralMistakesError(InputError):
    """Several inputs are wrong; the message lists all of them."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self._mistakes = tuple(mistakes)
        super().__init__("\n  ".join([f"{len(self._mistakes)} mistakes:", *self._mistakes]))

    @property
    def mistakes(self) -> tuple[str, ...]:
        return self._mistakes


class DivergedError(InputError):
    """The loss is no longer finite. The message names the epoch, the step and the learning rate."""


class Mistakes:
    """Collects mistakes, so that all of them are reported together."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, *messages: str) -> None:
        """Add mistakes, each once."""
        self.found += [message for message in dict.fromkeys(messages) if message not in self.found]

    def check(self, check: Callable[..., object], *arguments: Any) -> None:
        """Call a function; if it raises an `InputError`, add its mistakes."""
        try:
            check(*arguments)
        except InputError as error:
            self.add(*error.mistakes)

    def raise_all(self) -> None:
        """Raise an `InputError` if there are any mistakes."""
        if self.found:
            raise InputError(self.found[0]) if len(self.found) == 1 else SeveralMistakesError(self.found)


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


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
