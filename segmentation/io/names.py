"""Checks names that users bring: whether they can be printed, and whether a path stays inside its folder."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath


def is_plain(name: str) -> bool:
    """Return whether a name is free of control characters, line breaks and bytes that are not UTF-8."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC). Some systems store accents separately (NFD)."""
    return unicodedata.normalize("NFC", name)


def stays_inside(name: str) -> bool:
    """Return whether a relative path stays inside the folder that it is joined to, on any system.

    Symbolic links are not resolved.
    """
    return not any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))
