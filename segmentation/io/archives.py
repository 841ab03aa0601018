"""Reads zip files that may be damaged or hostile: checks names, checksums and the unpacked size."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.errors import InputError


@contextmanager
def opened(file: Path, max_bytes: int | None = None) -> Iterator[zipfile.ZipFile]:
    """Open a zip file for reading. Any exception inside the block is raised as an error about a damaged file.

    Args:
        file: path of the zip file.
        max_bytes: limit on the unpacked size of all records together. None accepts uncompressed records only, so that
            they take no more memory than the file.

    Raises:
        InputError: the file does not exist, is damaged, or exceeds the limit.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if len({record.filename for record in records}) < len(records):
                raise InputError(f"{file} is damaged: two of its records have the same name")
            total = sum(record.file_size for record in records)
            if max_bytes is None and any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise InputError(f"{file} was not written by this program: it has compressed records")
            limit = file.stat().st_size if max_bytes is None else max_bytes
            if total > limit:
                raise InputError(f"{file} is damaged or hostile: it unpacks to {total:,} bytes, the limit is {limit:,}")
            yield archive
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist") from error
    except Exception as error:  # readers raise nearly any exception for damaged files
        reason = str(error)[:200] or type(error).__name__  # some messages quote the rest of the file
        raise InputError(f"{file} is damaged: {reason}") from error
