"""Names from outside: which can be printed, written to a table and kept in a folder."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath


def is_plain(name: str) -> bool:
    """Whether a name has neither control characters and line breaks nor bytes that were no UTF-8."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC); some systems and tools write accents apart (NFD)."""
    return unicodedata.normalize("NFC", name)


def stays_inside(name: str) -> bool:
    """Whether a path, as any system reads it, stays in the folder that it is joined to; links are not looked at."""
    return not any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))
