"""Read files that `torch.save` wrote, without running code from them."""

import zipfile
from pathlib import Path
from typing import Any

import torch


def read_pickled(file: Path) -> Any:
    """Return what `torch.save` wrote to a file, without executing code from it.

    Raises:
        Exception: of nearly any type, if the file is damaged or holds more than tensors and plain values.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch does not verify checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"its record {damaged} is damaged")
    return torch.load(file, map_location="cpu", weights_only=True)
