"""torchvision's segmentation networks behind one face: uint8 pictures in, logits out."""

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models import get_model_weights, segmentation

from segmentation.calibration.calibrators import Calibrator
from segmentation.config import NORMALIZATIONS, ModelConfig
from segmentation.errors import InputError, listed, one_of

NORMALIZATION = {
    "signed_unit": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Mean and deviation of each channel, R, G, B, on the scale 0 to 255."""


class Architecture(NamedTuple):
    """A torchvision segmentation network and the classifier that its backbone comes from."""

    build: Callable[..., nn.Module]
    backbone: str


NETWORKS = {
    "fcn_resnet50": Architecture(segmentation.fcn_resnet50, "resnet50"),
    "fcn_resnet101": Architecture(segmentation.fcn_resnet101, "resnet101"),
    "deeplabv3_resnet50": Architecture(segmentation.deeplabv3_resnet50, "resnet50"),
    "deeplabv3_resnet101": Architecture(segmentation.deeplabv3_resnet101, "resnet101"),
    "lraspp_mobilenet_v3_large": Architecture(segmentation.lraspp_mobilenet_v3_large, "mobilenet_v3_large"),
}

LAST_LAYERS = ("classifier.4.", ".low_classifier.", ".high_classifier.")
"""Parts of the names of the layers that have one output a class, auxiliary ones included."""


class Segmenter(nn.Module):
    """A network that scales its own input, so that nobody can feed it pictures on the wrong scale.

    With a calibrator, its logits give calibrated probabilities.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, normalization: str) -> None:
        super().__init__()
        self.network = network
        self.calibrator: Calibrator | None = None
        for name, values in zip(("mean", "deviation"), NORMALIZATION[normalization], strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """The part that starts from ImageNet weights."""
        return self.network.get_submodule("backbone")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(B, C, H, W)` of RGB images `(B, 3, H, W)` uint8."""
        logits: torch.Tensor = self.outputs(images)["out"]
        if self.calibrator is not None:
            logits = self.calibrator(logits, images)
        return logits

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits `(B, C, H, W)` of the head, `out`, and of the auxiliary head, `aux`, if any; never calibrated."""
        scaled = (images.float() - self.mean) / self.deviation
        if scaled.device.type not in ("cpu", "cuda"):
            scaled = scaled.contiguous()  # see `devices.memory_format`
        outputs: dict[str, torch.Tensor] = self.network(scaled)
        return outputs


class LoadedWeights(NamedTuple):
    """Which tensors of a network came from elsewhere."""

    taken: list[str]
    left: dict[str, str]
    """Tensors that were offered but not taken, and why not."""
    fresh: list[str]
    """Tensors of the network that nothing was taken for; they keep their random start."""
    normalization: str | None = None
    """What they were trained with; None if that is not known."""

    def __str__(self) -> str:
        text = f"{len(self.taken)} tensors taken"
        if self.fresh:
            text += f"; {len(self.fresh)} start afresh ({listed(self.fresh, 4)})"
        if self.left:
            text += f"; {len(self.left)} not used: {_by_reason(self.left)}"
        return text


def _by_reason(left: Mapping[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({listed(names, 4)})" for reason, names in reasons.items())


def build(config: ModelConfig, classes: int) -> Segmenter:
    """The named network with random weights and `classes` outputs."""
    options = {"aux_loss": True} if config.auxiliary_loss else {}
    architecture = NETWORKS[one_of("model", config.model, NETWORKS)]
    network = architecture.build(weights=None, weights_backbone=None, num_classes=classes, **options)
    if config.batch_norm_momentum is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config.batch_norm_momentum
    normalization: str = config.normalization
    if normalization == "auto":
        normalization = NORMALIZATIONS.get(config.weights, "auto")
    if normalization == "auto":
        raise InputError(f"normalization=auto: what weights={config.weights} were trained with is not known here")
    return Segmenter(network, normalization)


def load_hub_weights(network: Segmenter, config: ModelConfig, class_names: Sequence[str]) -> LoadedWeights:
    """Start from torchvision's published weights: `imagenet` for the backbone, `coco` for the whole network.

    Raises:
        InputError: they cannot be fetched, or the file that was fetched earlier is damaged.
    """
    backbone_only = one_of("weights", config.weights, ("imagenet", "coco")) == "imagenet"
    published = get_model_weights(NETWORKS[config.model].backbone if backbone_only else config.model)
    weights = next(iter(published))  # the first version, which torchvision's own segmentation recipes start from
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, TimeoutError) as error:
        raise InputError(
            f"weights={config.weights} could not be fetched from {weights.url}: {error}. Check the network, "
            f"or place that file in {torch.hub.get_dir()}/checkpoints"
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(
            f"weights={config.weights}: {torch.hub.get_dir()}/checkpoints/{weights.url.rpartition('/')[2]} is damaged; "
            f"delete it to fetch it again"
        ) from error
    prefix = "network.backbone." if backbone_only else "network."
    offered = {prefix + name.removeprefix("features."): tensor for name, tensor in state.items()}
    categories = [name.strip("_") for name in weights.meta["categories"]]
    found = take(network, offered, same_classes=categories == list(class_names))
    return found._replace(normalization=NORMALIZATIONS[config.weights])


def take(network: Segmenter, offered: Mapping[str, torch.Tensor], same_classes: bool) -> LoadedWeights:
    """Copy every offered tensor that the network has under the same name and in the same shape.

    Where a convolution is missing, its batch norm is not taken, and nothing of its stage of the backbone (`layer3` of a
    ResNet): the statistics of trained convolutions are wrong for random ones.

    Args:
        network: changed in place.
        offered: tensors by the names of `Segmenter.state_dict()`.
        same_classes: whether they were trained for the same classes; if not, the last layers start afresh.

    Raises:
        InputError: nothing fits, so the weights are of another network.
    """
    own = network.state_dict()
    left = {name: reason for name, tensor in offered.items() if (reason := _misfit(name, tensor, own, same_classes))}
    incomplete = _beside_random_convolutions(network, offered.keys() - left.keys())
    left = {
        name: left.get(name, "of a layer whose convolutions are not all there")
        for name in offered
        if name in left or name in incomplete
    }
    taken = {name: tensor for name, tensor in offered.items() if name not in left}
    if not taken:
        raise InputError(
            f"the starting weights are of another network: none of their {len(offered)} tensors fits; "
            f"set model to the one that they were trained with. {_by_reason(left)}"
        )
    network.load_state_dict(taken, strict=False)
    return LoadedWeights(list(taken), left, [name for name in own if name not in taken])


def _misfit(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor], same_classes: bool) -> str | None:
    """Why an offered tensor cannot be taken, or None if it can."""
    if name not in own:
        return "not in this model"
    if own[name].shape != tensor.shape:
        return f"shape {tuple(tensor.shape)} where the model has {tuple(own[name].shape)}"
    if own[name].is_floating_point() != tensor.is_floating_point():
        return f"{tensor.dtype} where the model has {own[name].dtype}"
    return None if same_classes or not any(part in name for part in LAST_LAYERS) else "of other classes"


def _beside_random_convolutions(network: Segmenter, taken: Collection[str]) -> set[str]:
    """Tensors of batch norms whose convolution, the one registered before, is not taken, and of incomplete stages."""
    found: set[str] = set()
    stages = [f"network.backbone.{stage}." for stage, _ in network.backbone.named_children()]
    is_random = False
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            is_random = f"{name}.weight" not in taken
            if is_random:
                stage = tuple(each for each in stages if name.startswith(each))
                found |= {each for each in taken if each.startswith(stage)} if stage else set()
        elif isinstance(module, nn.BatchNorm2d) and is_random:
            found |= {f"{name}.{tensor}" for tensor in module.state_dict()}
    return found
