"""Zip files read without trust: whole, checked by their checksums, and never larger in memory than is said."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmentation.errors import InputError


@contextmanager
def opened(file: Path, largest: int | None = None) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from; every error inside the block tells that the file is damaged.

    Args:
        file: what to read.
        largest: bytes that all records may take together when they are unpacked; None allows no packed record, so that
            they take no more than the file does.

    Raises:
        InputError: it is not there or damaged, or it would take more memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if len({record.filename for record in records}) < len(records):
                raise InputError(f"{file} is damaged: it holds two records of one name")
            total = sum(record.file_size for record in records)
            if largest is None and any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise InputError(f"{file} is not made by this program: it holds packed records")
            most = file.stat().st_size if largest is None else largest
            if total > most:
                raise InputError(f"{file} is damaged or made to fill the memory: {total:,} bytes of at most {most:,}")
            yield archive
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist") from error
    except Exception as error:  # readers of damaged files raise nearly anything
        told = str(error)[:200] or type(error).__name__  # some quote all that follows
        raise InputError(f"{file} is damaged: {told}") from error
