"""Starting weights: torchvision's published ones, and which tensors of a state dict a model can load."""

import pickle
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models import get_model_weights

from segmentation.config import NORMALIZATIONS, RGB, ModelConfig
from segmentation.errors import InputError, listed, one_of
from segmentation.models.networks import CLASS_LAYERS, NETWORKS
from segmentation.models.segmenter import MEASURED_TENSORS, Segmenter, first_convolution


class LoadedWeights(NamedTuple):
    """Which tensors of a model were loaded from starting weights."""

    taken: list[str]
    """Tensors that were loaded."""
    left: dict[str, str]
    """Tensors of the starting weights that were not loaded, with the reason."""
    fresh: list[str]
    """Tensors of the model that keep their random initialization."""
    normalization: str | None = None
    """The input normalization that the weights were trained with; None if unknown."""

    def __str__(self) -> str:
        text = f"{len(self.taken)} tensors loaded"
        if self.fresh:
            text += f"; {len(self.fresh)} start at random ({listed(self.fresh, 4)})"
        if self.left:
            text += f"; {len(self.left)} skipped: {_by_reason(self.left)}"
        return text


def load_hub_weights(model: Segmenter, config: ModelConfig, class_names: Sequence[str]) -> LoadedWeights:
    """Load torchvision's published weights: `imagenet` for the backbone, `coco` for the whole network.

    Raises:
        InputError: the file cannot be downloaded, or the cached file is damaged.
    """
    backbone_only = one_of("weights", config.weights, ("imagenet", "coco")) == "imagenet"
    published = get_model_weights(NETWORKS[config.model].backbone if backbone_only else config.model)
    weights = next(iter(published))  # the first version, which torchvision's own segmentation recipes start from
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, TimeoutError) as error:
        raise InputError(
            f"weights={config.weights} could not be downloaded from {weights.url}: {error}. "
            f"Check the connection, or put the file into {folder}"
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        file = f"{folder}/{weights.url.rpartition('/')[2]}"
        raise InputError(f"weights={config.weights}: {file} is damaged; delete it to download it again") from error
    prefix = "network.backbone." if backbone_only else "network."
    tensors = {prefix + name.removeprefix("features."): tensor for name, tensor in state.items()}
    categories = [name.strip("_") for name in weights.meta["categories"]]
    loaded = load_matching(model, tensors, same_classes=categories == list(class_names))
    return loaded._replace(normalization=NORMALIZATIONS[config.weights])


def load_matching(model: Segmenter, tensors: Mapping[str, torch.Tensor], same_classes: bool) -> LoadedWeights:
    """Load every tensor that matches a tensor of the model in name and shape.

    Batch norm statistics of trained convolutions are wrong for random ones. If a convolution is missing, its batch norm
    and the rest of its backbone stage (`layer3` of a ResNet) are therefore skipped.

    Args:
        model: changed in place.
        tensors: by their names in `Segmenter.state_dict()`.
        same_classes: whether they were trained on the same classes; if not, the class layers stay random.

    Raises:
        InputError: no tensor matches: the weights belong to another architecture.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in MEASURED_TENSORS}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in MEASURED_TENSORS}
    if model.channels != RGB and model.code is None:
        first = f"network.{first_convolution(model.network)}.weight"
        if first in tensors:
            tensors[first] = with_channels(tensors[first], model.channels)
    of_classes = set() if same_classes else class_tensors(model)
    skipped = {name: reason for name, tensor in tensors.items() if (reason := _mismatch(name, tensor, own, of_classes))}
    incomplete = _with_random_convolutions(model, tensors.keys() - skipped.keys())
    skipped = {
        name: skipped.get(name, "convolutions of its layer are missing")
        for name in tensors
        if name in skipped or name in incomplete
    }
    matching = {name: tensor for name, tensor in tensors.items() if name not in skipped}
    if not matching:
        raise InputError(
            f"none of the {len(tensors)} tensors of the starting weights fits the model: they belong to another "
            f"architecture; set model to it. {_by_reason(skipped)}"
        )
    model.load_state_dict(matching, strict=False)
    # the number of batches that batch norm has seen is an integer, and does not start at random
    fresh = [name for name, tensor in own.items() if name not in matching and tensor.is_floating_point()]
    return LoadedWeights(list(matching), skipped, fresh)


def with_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the weight of a first convolution, `(O, M, h, w)`, for `channels` inputs.

    The first inputs keep their weights. Each further input starts with the mean of the `M` weights times
    `M / channels`, so that all further inputs together weigh less than the first ones: timm's `adapt_input_conv` scales
    its copies of the weights by the same factor.
    """
    if weight.ndim != 4 or weight.shape[1] in (0, channels):
        return weight
    trained = weight.shape[1]
    further = weight.mean(1, keepdim=True) * (trained / channels)
    return torch.cat([weight[:, :channels], further.expand(-1, max(0, channels - trained), -1, -1)], 1)


def _by_reason(skipped: Mapping[str, str]) -> str:
    """Format skipped tensors, grouped by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({listed(names, 4)})" for reason, names in reasons.items())


def class_tensors(model: Segmenter) -> set[str]:
    """Return the names of the tensors of the layers with one output per class.

    In an own network these are the tensors whose shapes change with the number of classes.
    """
    own = model.state_dict()
    if model.code is None:
        return {name for name in own if any(part in name for part in CLASS_LAYERS)}
    with torch.random.fork_rng(devices=[]):
        one, two = (model.code.build(classes, model.mean.shape[1], pretrained=False).state_dict() for classes in (2, 3))
    return {f"network.{name}" for name, tensor in one.items() if name not in two or two[name].shape != tensor.shape}


def _mismatch(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor], of_classes: set[str]) -> str | None:
    """Return why a tensor cannot be loaded, or None if it can."""
    if name not in own:
        return "not in this model"
    if own[name].shape != tensor.shape:
        return f"shape {tuple(tensor.shape)} where the model has {tuple(own[name].shape)}"
    if own[name].is_floating_point() != tensor.is_floating_point():
        return f"{tensor.dtype} where the model has {own[name].dtype}"
    return "trained on other classes" if name in of_classes else None


def _with_random_convolutions(model: Segmenter, matching: Collection[str]) -> set[str]:
    """Return the tensors of incomplete backbone stages, and of batch norms whose convolution stays random.

    The convolution of a batch norm is the one that was registered before it.
    """
    found: set[str] = set()
    stages = [f"network.{model.backbone_name}.{stage}." for stage, _ in model.backbone.named_children()]
    is_random = False
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            is_random = f"{name}.weight" not in matching
            if is_random:
                stage = tuple(each for each in stages if name.startswith(each))
                found |= {each for each in matching if each.startswith(stage)} if stage else set()
        elif isinstance(module, nn.BatchNorm2d) and is_random:
            found |= {f"{name}.{tensor}" for tensor in module.state_dict()}
    return found
