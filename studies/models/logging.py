"""Log a model in the current run through the run's journal, and register it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.data import Split
from segmentation.models.segmenter import Segmenter
from studies.models.flavor import save_model
from studies.models.loading import version_uri
from studies.tracking.run_journals import journal_of, wait_until_sent
from studies.tracking.sending import MODEL, now


def log_model(
    network: Segmenter, split: Split, metadata: dict[str, Any], register_as: str | None, alias: str
) -> str | None:
    """Log a model in the current run, and register it if a name is given.

    Args:
        network: moved to the CPU and put into evaluation mode.
        split: its first image is the example of a request.
        metadata: configuration, class names, palette, epoch and calibration, see `StoredModel.metadata`.
        register_as: name in the model registry, or None.
        alias: alias that will point to the registered version.

    Returns:
        The URI of the registered version; None if no name is given or MLflow does not answer now.
    """
    network.cpu().to(memory_format=torch.contiguous_format).eval()
    images, _ = split.gather(np.array([0]))

    def save(folder: Path) -> None:
        save_model(folder / MODEL, network, images[0], metadata)

    with journal_of() as journal:
        entry = {"what": "model", "register_as": register_as, "alias": alias, "time": now()}
        journal.add("files", entry, save)
    if register_as is None or not wait_until_sent():
        return None
    return version_uri(f"models:/{register_as}@{alias}")
