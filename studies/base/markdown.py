"""Escape text for Markdown, so that it shows unchanged and breaks no table."""

import re

SPECIAL = re.compile(r"[&<>`*\[\]{}\\|~$#\"]|(?<!\w)_|_(?!\w)")
"""Characters with a meaning in Markdown or in one of its dialects."""


def escaped(text: object) -> str:
    """Return text as one line of Markdown that shows it literally."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def one_line(text: object) -> str:
    """Return text without line breaks and control characters."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def unbroken(text: str) -> str:
    """Return text with no-break spaces, so that a table cell stays on one line."""
    return text.replace(" ", "\u00a0")


def code(text: object) -> str:
    """Return text as inline code; text with `|` or a backtick is escaped instead, since it would break a table cell."""
    plain = one_line(text)
    return escaped(plain) if not plain or set("|`") & set(plain) else f"`{plain}`"
