"""What makes two trainings the same: they would give the same figures, so that the second need not be done."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import segmentation
from segmentation.devices import resolve_device, resolve_precision
from segmentation.models.segmenter import Segmenter
from segmentation.training.loop import Data
from studies.config import TrainConfig, decisive

IDENTITY = "identity"
"""Tag of a training run: equal where configuration, seed, data, starting weights and code are."""
LIBRARIES = ("numpy", "torch", "torchvision")
NOT_LEARNING = ("config.py", "errors.py", "fields.py", "plots", "prediction", "system/progress.py")
"""Parts of `segmentation/` that neither learn nor score, each the beginning of a path; the configuration counts by its
values."""


def identity(config: TrainConfig, data: Data, network: Segmenter) -> str:
    """A hash of all that the figures of a training depend on, but for the machine; the kind of its device counts.

    Args:
        config: what to do.
        data: its splits.
        network: before the first step, so that it tells the starting weights, wherever they are from.
    """
    setting = decisive(asdict(config))
    setting.pop("weights")
    device = resolve_device(config.device)
    setting |= {"device": device.type, "precision": str(resolve_precision(config.precision, device))}
    told = json.dumps([setting, data.train.fingerprint, data.val.fingerprint, CODE], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _code() -> str:
    """A hash of the files that learn and score, and of the libraries under them."""
    folder = Path(segmentation.__file__).parent
    digest = hashlib.sha256(" ".join(map(version, LIBRARIES)).encode())
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(NOT_LEARNING):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


CODE = _code()  # of what this process has imported, whatever happens to the files later
