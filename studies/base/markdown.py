"""Markdown from text that comes from outside: escaped, so that it shows as it is and breaks no table."""

import re
from collections.abc import Iterable, Iterator, Sequence

MEANS_SOMETHING = re.compile(r"[&<>`*\[\]{}\\|~$#\"]|(?<!\w)_|_(?!\w)")
"""Characters that Markdown, or its dialects, may take for more than themselves."""


def escaped(text: object) -> str:
    """Text from outside, as Markdown that shows it and nothing else; on one line."""
    return MEANS_SOMETHING.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def one_line(text: object) -> str:
    """A text without line breaks and control characters."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def code(text: object) -> str:
    """Text from outside as inline code; a `|`, which would end a cell even there, makes it plain text instead."""
    plain = one_line(text)
    return escaped(plain) if not plain or set("|`") & set(plain) else f"`{plain}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table whose cells are Markdown."""
    yield from (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
