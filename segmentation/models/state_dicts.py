"""State dicts that other programs have saved (`.pth`, `.pt`, `.safetensors`), as starting weights.

Only tensors are read: by `torch.load` with `weights_only=True`, and by safetensors, whose files hold nothing else.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from segmentation.classes import Classes
from segmentation.errors import InputError, listed
from segmentation.models.segmenter import LoadedWeights, Segmenter, take

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "module")
"""Keys under which training programs put the state dict in a larger dictionary."""
AROUND = ("module", "_orig_mod", *WRAPPERS)
"""What a name of a tensor may begin with: the names of modules around the network."""
AROUND_BACKBONE = ("backbone", "encoder", "body", "features")
"""The same around the backbone."""
HEADS = ("classifier", "aux_classifier")
DEEPEST = 4
"""Dictionaries in dictionaries that are looked into."""


def read_pickled(file: Path) -> Any:
    """What `torch.save` has written to a file, without executing anything in it.

    Raises:
        Exception: nearly any kind, if the file is damaged or holds more than tensors and plain values.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch takes what is in it as it is
        if damaged is not None:
            raise zipfile.BadZipFile(f"its record {damaged} is damaged")
    return torch.load(file, map_location="cpu", weights_only=True)


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by the names that they have in it.

    Raises:
        InputError: the file cannot be read, or holds no tensors.
    """
    try:
        tensors = load_file(file) if file.suffix.lower() == ".safetensors" else tensors_in(read_pickled(file))
    except Exception as error:  # readers of damaged files raise nearly anything
        raise InputError(
            f"weights={file} cannot be read: it is damaged, or holds more than tensors, and nothing else is unpickled; "
            f"save the model's state_dict() by torch.save or safetensors ({str(error).splitlines()[0][:200]})"
        ) from error
    if not tensors:
        raise InputError(f"weights={file} holds no state dict: no tensors by name")
    broken = [name for name, tensor in tensors.items() if not is_plain_tensor(tensor)]
    if broken:
        raise InputError(f"weights={file}: {listed(broken)} cannot be taken: sparse, quantized or larger than its data")
    return tensors


def tensors_in(content: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The state dict in what was read from a file: the content itself, or what lies under one of `WRAPPERS`."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        found = tensors_in(content.get(key), depth + 1) if depth < DEEPEST else {}
        if found:
            return found
    return {
        name: tensor.detach()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a tensor with all its values in memory: not sparse, and not one value for many."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def take_state_dict(network: Segmenter, file: Path, labels: Classes) -> LoadedWeights:
    """Start from the state dict in a file: of a whole network, or of the backbone alone, under torchvision's names.

    Args:
        network: changed in place.
        file: what to read. It does not say its classes, so last layers are taken if they have as many as `labels`.
        labels: the network's classes.

    Raises:
        InputError: the file cannot be read, or nothing in it fits.
    """
    tensors = read_state_dict(file)
    sources: dict[str, str] = {}
    for name in tensors:
        other = sources.setdefault(own_name(name), name)
        if other != name:
            raise InputError(f"weights={file} holds {other} and {name}, which are the same part of a model; keep one")
    offered = {own: tensors[name] for own, name in sources.items()}
    try:
        found = take(network, offered, same_classes=True)
    except InputError as error:
        wanted = [name.removeprefix("network.") for name in network.state_dict()]
        raise InputError(
            f"weights={file}: {error}. Its tensors are called {listed(tensors, 4)}, the model's {listed(wanted, 4)}"
        ) from error
    return found._replace(left={sources[name]: reason for name, reason in found.left.items()})


def own_name(name: str) -> str:
    """The name in `Segmenter.state_dict()` of what torchvision calls `name`, alone or inside other modules."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in AROUND:
        parts = parts[1:]
    if parts[0] in HEADS:
        return ".".join(["network", *parts])
    while len(parts) > 1 and parts[0] in AROUND_BACKBONE:
        parts = parts[1:]
    return ".".join(["network", "backbone", *parts])
