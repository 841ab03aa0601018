"""Reads texts that people write by hand, such as the list of a split's images, one name per line."""

from pathlib import Path, PurePosixPath

from segmentation.errors import InputError
from segmentation.io.names import is_plain, stays_inside

MAX_BYTES = 2**26
"""Size limit of a list: a million names of 64 letters."""

MAX_NAME_LENGTH = 1000
"""Letters in an image's name, including its folders."""


def read_text(file: Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is larger than `max_bytes`.
    """
    try:
        if file.stat().st_size > max_bytes:
            raise InputError(f"{file} is too large: more than {max_bytes:,} bytes")
        return file.read_bytes().decode("utf-8-sig")  # `read_text` ignores a truncated byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def image_names(file: Path) -> list[str]:
    """Return the image names in a list, as paths relative to the image folder. Blank lines are skipped.

    Raises:
        InputError: the file cannot be read, or a name is too long, unprintable or leads out of the image folder.
    """
    lines = [line.strip() for line in read_text(file).splitlines()]
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}: {line!r:.80}"
        if len(line) > MAX_NAME_LENGTH:
            raise InputError(f"{where} is not an image name: it has {len(line):,} letters, at most {MAX_NAME_LENGTH:,}")
        if not is_plain(line):
            raise InputError(f"{where} is not an image name: it has control characters")
        if not stays_inside(line):
            raise InputError(f"{where} leads out of the image folder; list only images inside it")
    return [PurePosixPath(line).as_posix() for line in lines if line]
