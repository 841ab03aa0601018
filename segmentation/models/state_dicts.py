"""Read state dicts from files (`.pth`, `.pt`, `.safetensors`) and load them as starting weights.

Only tensors are read: no code from a file is run, see `segmentation.io.pickled`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from segmentation.classes import Classes
from segmentation.errors import InputError, listed
from segmentation.io.pickled import read_pickled
from segmentation.models.segmenter import Segmenter
from segmentation.models.starting_weights import LoadedWeights, load_matching

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "module")
"""Keys under which training programs store the state dict in a larger dictionary."""
MODEL_PREFIXES = ("module", "_orig_mod", *STATE_DICT_KEYS)
"""Possible first parts of a tensor's name: names of modules that wrap the model."""
BACKBONE_PREFIXES = ("backbone", "encoder", "body", "features")
"""Names of modules that wrap the backbone."""
HEADS = ("classifier", "aux_classifier")
MAX_DEPTH = 4
"""Levels of nested dictionaries that are searched."""


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        InputError: the file is missing, damaged or of another format.
    """
    try:
        return load_file(file)
    except Exception as error:  # SafetensorError, OSError, KeyError for unknown types and others
        raise InputError(f"{file} is not a readable safetensors file: {_first_line(error)}") from error


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file under the names that they have in it.

    Raises:
        InputError: the file cannot be read, or holds no tensors.
    """
    try:
        tensors = (
            read_safetensors(file) if file.suffix.lower() == ".safetensors" else find_state_dict(read_pickled(file))
        )
    except Exception as error:  # damaged files raise nearly any type
        raise InputError(
            f"weights={file} cannot be read: the file is damaged, or holds more than tensors, which are all that is "
            f"unpickled; save the model's state_dict() with torch.save or safetensors ({_first_line(error)})"
        ) from error
    if not tensors:
        raise InputError(f"weights={file} holds no state dict: no tensors by name")
    broken = [name for name, tensor in tensors.items() if not is_plain_tensor(tensor)]
    if broken:
        raise InputError(
            f"weights={file}: {listed(broken)} cannot be loaded: sparse, quantized or larger than its data"
        )
    return tensors


def find_state_dict(content: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """Return the state dict in the content of a file: the content itself, or an entry under `STATE_DICT_KEYS`."""
    if not isinstance(content, Mapping):
        return {}
    for key in STATE_DICT_KEYS:
        found = find_state_dict(content.get(key), depth + 1) if depth < MAX_DEPTH else {}
        if found:
            return found
    return {
        name: tensor.detach()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def is_plain_tensor(value: Any) -> bool:
    """Whether a value is a dense tensor with all its values in memory: not sparse, quantized or expanded."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def load_weights_file(model: Segmenter, file: Path, labels: Classes) -> LoadedWeights:
    """Load the state dict in a file: of a whole network or of a backbone, under torchvision's or the own model's names.

    Args:
        model: changed in place.
        file: a state dict. It does not name its classes: class layers are loaded if their number of classes fits.
        labels: the classes of the model.

    Raises:
        InputError: the file cannot be read, or none of its tensors fits.
    """
    tensors = read_state_dict(file)
    own, sources = model.state_dict().keys(), dict[str, str]()
    for name in tensors:
        own_name = segmenter_name(name) if model.code is None else _own_name(name, own, model.backbone_name)
        other = sources.setdefault(own_name, name)
        if other != name:
            raise InputError(f"weights={file} holds {other} and {name}, which are the same part of a model; keep one")
    renamed = {own: tensors[name] for own, name in sources.items()}
    try:
        loaded = load_matching(model, renamed, same_classes=True)
    except InputError as error:
        expected = [name.removeprefix("network.") for name in own]
        raise InputError(
            f"weights={file}: {error}. Its tensors are named {listed(tensors, 4)}; the model's, {listed(expected, 4)}"
        ) from error
    return loaded._replace(left={sources[name]: reason for name, reason in loaded.left.items()})


def segmenter_name(name: str) -> str:
    """Return the name in `Segmenter.state_dict()` of a tensor with a torchvision name, wrapped or not."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in MODEL_PREFIXES:
        parts = parts[1:]
    if parts[0] in HEADS:
        return ".".join(["network", *parts])
    while len(parts) > 1 and parts[0] in BACKBONE_PREFIXES:
        parts = parts[1:]
    return ".".join(["network", "backbone", *parts])


def _own_name(name: str, own: Collection[str], backbone: str | None) -> str:
    """Return the name in `Segmenter.state_dict()` of a tensor of an own network or of its backbone, wrapped or not."""
    parts = name.split(".")
    while True:
        for prefix in ("network", f"network.{backbone}"):
            if (found := ".".join([prefix, *parts])) in own:
                return found
        if len(parts) == 1 or parts[0] not in MODEL_PREFIXES:
            return f"network.{name}"
        parts = parts[1:]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
