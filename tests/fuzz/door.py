"""A door through which inputs come in: what it makes of each is counted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

from segmentation.errors import InputError
from segmentation.io.names import is_plain
from tests.fuzz.guard import guarded
from tests.fuzz.inputs import SEED, SHARES

Answer = TypeVar("Answer")
LONGEST = 2000
"""Letters of a message that can still be read."""


class Door:
    """One door, in one folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.refused = 0
        self.right = 0
        self.now = ""
        """What the input that is tried is drawn from."""

    @property
    def tried(self) -> int:
        """Inputs so far."""
        return self.refused + self.right

    def randoms(self) -> Iterator[Random]:
        """A source of chance for each input."""
        for number in range(SHARES[self.name].count):
            self.now = f"{SEED} {self.name} {number}"
            yield Random(self.now)

    def __call__(
        self,
        answer: Callable[[], Answer],
        named: str | tuple[str, ...],
        refusal: type[Exception] = InputError,
        forbidden: Path | None = None,
        typed: bool = False,
    ) -> Answer | None:
        """What an input is answered with, or None if it is refused.

        Args:
            answer: what takes the input in.
            named: what a refusal must name: of these texts, one.
            refusal: the one error that there may be.
            forbidden: a folder from which nothing may be read.
            typed: whether the user has typed the input, who may then see it as it is, however long.
        """
        try:
            with guarded(self.folder, forbidden):
                found = answer()
        except refusal as error:
            message = str(error)
            assert any(name in message for name in ((named,) if isinstance(named, str) else named)), message
            assert typed or len(message) < LONGEST, f"{len(message)} letters: {message[:LONGEST]}"
            assert typed or is_plain(message.replace("\n", "").replace("\t", "")), repr(message)
            self.refused += 1
            return None
        self.right += 1
        return found
