"""What people write by hand: the names of a split's pictures, one a line, and other short texts."""

from pathlib import Path, PurePosixPath

from segmentation.errors import InputError
from segmentation.io.names import is_plain, stays_inside

LARGEST_TEXT = 2**26
"""Bytes of a list beyond which it is none: a million names of 64 letters."""

LONGEST_NAME = 1000
"""Letters of a picture's name, with its folders."""


def read_text(file: Path) -> str:
    """The text of a file, UTF-8 with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is no such text, or is absurdly long.
    """
    try:
        if file.stat().st_size > LARGEST_TEXT:
            raise InputError(f"{file} is too large for a list: more than {LARGEST_TEXT:,} bytes")
        return file.read_bytes().decode("utf-8-sig")  # `read_text` takes half a byte order mark for nothing
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def image_names(file: Path) -> list[str]:
    """The pictures that a list names, as paths below their folder; blank lines are left out.

    Raises:
        InputError: it cannot be read, or a name leads out of the folder that the pictures are in.
    """
    lines = [line.strip() for line in read_text(file).splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_NAME:
            raise InputError(
                f"{file}, line {number}: {line!r:.80} is no name of a picture: it has {len(line):,} letters"
            )
        if not is_plain(line):
            raise InputError(f"{file}, line {number}: {line!r:.80} is no name of a picture: it has control characters")
        if not stays_inside(line):
            raise InputError(
                f"{file}, line {number}: {line!r:.80} leads out of the folder of the pictures; name those in it"
            )
    return [PurePosixPath(line).as_posix() for line in lines if line]
