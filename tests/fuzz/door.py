"""An entry for untrusted input, such as `read_image`: passes inputs to it under guard, and counts the results."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

from segmentation.errors import InputError
from segmentation.io.names import is_plain
from tests.fuzz.guard import guarded
from tests.fuzz.inputs import ENTRIES, SEED

Answer = TypeVar("Answer")
MAX_MESSAGE_LENGTH = 2000
"""Letters in an error message."""


class Door:
    """One entry, whose files are in one folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.refused = 0
        self.right = 0
        self.now = ""
        """Seed of the current input."""

    @property
    def tried(self) -> int:
        """Number of inputs so far."""
        return self.refused + self.right

    def randoms(self) -> Iterator[Random]:
        """Yield a random generator for each input."""
        for number in range(ENTRIES[self.name].count):
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
        """Return the result of `answer`, or None if it refuses the input.

        Args:
            answer: processes the input.
            named: texts, of which the error message must contain one.
            refusal: the only exception that is allowed.
            forbidden: folder in which no file may be read.
            typed: whether the user has typed the input; then the message may repeat it in full.
        """
        try:
            with guarded(self.folder, forbidden):
                found = answer()
        except refusal as error:
            message = str(error)
            assert any(name in message for name in ((named,) if isinstance(named, str) else named)), message
            assert typed or len(message) < MAX_MESSAGE_LENGTH, f"{len(message)} letters: {message[:2000]}"
            assert typed or is_plain(message.replace("\n", "").replace("\t", "")), repr(message)
            self.refused += 1
            return None
        self.right += 1
        return found
