"""Checksum of a logged model's tensors: the safetensors format has none of its own."""

import hashlib
from pathlib import Path

WEIGHTS = "weights.safetensors"
"""The file of a logged model that holds its tensors."""
CHECKSUM = "weights_sha256"
"""Key of the checksum in the metadata of a logged model."""
MODEL_CODE = "model_code"
"""Key of a logged model's metadata with the code of a user's own model, and tag of a training run with its checksum."""


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
