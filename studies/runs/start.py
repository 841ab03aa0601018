"""What a training run starts from: its splits, its model before the first step, and a hash that identifies the run."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

import segmentation
from segmentation.config import MEASURED
from segmentation.data import Split, load_splits, open_splits
from segmentation.devices import resolve_device, resolve_precision
from segmentation.models.model_code import is_own, local_code
from segmentation.models.network_check import check_network
from segmentation.models.segmenter import Segmenter, build
from segmentation.models.starting_weights import LoadedWeights
from segmentation.training import checkpoints
from segmentation.training.class_weights import NAMED, weights_of_file
from segmentation.training.loop import Data
from studies.config import TrainConfig, decisive
from studies.models.starting_weights import load_starting_weights, resolve_normalization

IDENTITY = "identity"
"""Tag of a training run with its hash: equal for equal configuration, seed, data, starting weights and code."""
LIBRARIES = ("numpy", "torch", "torchvision")
NOT_LEARNING = ("config.py", "errors.py", "fields.py", "plots", "prediction", "system/progress.py")
"""Path prefixes in `segmentation/` that a run's result does not depend on; configuration counts by its values."""


def check_start(config: TrainConfig) -> TrainConfig:
    """Check what can be checked in seconds, before a run is opened, and resolve `normalization=auto`.

    Raises:
        InputError: the device, the data, the starting weights or the module of an own model are not there, or
            checkpoints cannot be written.
    """
    resolve_device(config.device)
    checkpoints.check_folder(Path(config.checkpoint_dir))
    if is_own(config.model):
        local_code(config.model)
    # fetching is left to the run
    if not (config.download and config.dataset.startswith("voc")):
        train, _ = open_splits(config, config.train_split, config.val_split)
        if config.class_weights not in NAMED:
            weights_of_file(Path(config.class_weights), train.labels.names)
    return resolve_normalization(config)


def load_data(config: TrainConfig) -> Data:
    """Return the training and the validation split."""
    return Data(*load_splits(config))


def training_size(config: TrainConfig, split: Split) -> tuple[int, int]:
    """Return height and width of the images that the model is trained on."""
    height, width = split.sizes[0].tolist()
    return (height, width) if config.crop is None else (config.crop, config.crop)


def starting_model(config: TrainConfig, split: Split) -> tuple[Segmenter, LoadedWeights | None]:
    """Return the model before the first step, and which tensors were loaded from starting weights.

    Raises:
        InputError: the starting weights do not exist or do not fit the model, or an own model does not work.
    """
    config = resolve_normalization(config, split)
    torch.manual_seed(config.seed)
    model = build(config, len(split.labels), pretrained=config.weights == "none")
    if config.normalization == MEASURED:
        model.set_normalization(*split.channel_statistics, split.bits)
    if model.code is not None:
        model.code = check_network(model, config, len(split.labels), training_size(config, split))
    return model, load_starting_weights(model, config, split.labels)


def identity(config: TrainConfig, data: Data, model: Segmenter) -> str:
    """Return a hash of everything that the result of a run depends on. Of the machine, only the kind of device counts.

    Args:
        config: the configuration.
        data: the splits.
        model: before the first step, so that the starting weights count by their values.
    """
    values = decisive(asdict(config))
    values.pop("weights")
    device = resolve_device(config.device)
    values |= {"device": device.type, "precision": str(resolve_precision(config.precision, device))}
    if config.class_weights not in NAMED:  # a file counts by its content; the others follow from the data
        values["class_weights"] = weights_of_file(Path(config.class_weights), data.train.labels.names)
    code = [CODE] if model.code is None else [CODE, model.code.checksum]
    text = json.dumps([values, data.train.fingerprint, data.val.fingerprint, *code], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _hash_of_code() -> str:
    """Return a hash of the source files that train and score, and of the versions of the libraries they use."""
    folder = Path(segmentation.__file__).parent
    digest = hashlib.sha256(" ".join(map(version, LIBRARIES)).encode())
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(NOT_LEARNING):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


CODE = _hash_of_code()  # at import, since the files may change while this process runs
