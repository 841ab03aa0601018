"""`Segmenter`: images of 8 or 16 bits in, logits out. It normalizes its own input, so the scale cannot be wrong.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from segmentation.calibration.calibrators import Calibrator, Measured
from segmentation.models.model_code import ModelCode, is_own, local_code
from segmentation.models.network_outputs import network_outputs
from segmentation.models.networks import NETWORKS

if TYPE_CHECKING:
    from segmentation.config import ModelConfig

NORMALIZATION = {
    "signed_unit": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Mean and standard deviation of the channels R, G, B, on the scale 0 to 255."""
MEASURED = "measured"
"""Normalization by mean and standard deviation of the training split, which are tensors of the model."""
MEASURED_TENSORS = ("mean", "std", "bits")
"""Names of the tensors that a model with `MEASURED` has besides those of its network."""
RGB = 3
"""Input channels of torchvision's networks."""
BACKBONES = ("backbone", "encoder")
"""Names of the backbone in torchvision's networks, and in those of other libraries."""


class Segmenter(nn.Module):
    """A network with input normalization and an optional calibrator.

    Attributes:
        network: torchvision's network, or a user's own.
        calibrator: maps logits to calibrated logits; None leaves them unchanged.
        channels: number of input channels.
        code: the code of a user's own network; None for torchvision's.
    """

    mean: torch.Tensor
    std: torch.Tensor
    bits: torch.Tensor
    """Bits per channel of the input, 8 or 16."""

    def __init__(self, network: nn.Module, normalization: str, channels: int = RGB) -> None:
        super().__init__()
        self.network = network
        self.calibrator: Calibrator | None = None
        self.channels = channels
        is_measured = normalization == MEASURED
        mean, std = ((0.0,) * channels, (1.0,) * channels) if is_measured else NORMALIZATION[normalization]
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, channels, 1, 1), persistent=is_measured)
        self.register_buffer("bits", torch.tensor(8), persistent=is_measured)
        self.code: ModelCode | None = None

    @property
    def backbone_name(self) -> str | None:
        """Name of the part that ImageNet weights initialize; an own network may have none."""
        return next((name for name in BACKBONES if isinstance(getattr(self.network, name, None), nn.Module)), None)

    @property
    def backbone(self) -> nn.Module:
        """The part that ImageNet weights initialize; an empty module if there is none."""
        return self.network.get_submodule(self.backbone_name) if self.backbone_name else nn.Module()

    def measured(self) -> Measured | None:
        """Return the measured mean and standard deviation of the channels; None with another normalization."""
        if "mean" in self._non_persistent_buffers_set:
            return None
        return self.mean.flatten().tolist(), self.std.flatten().tolist()

    def set_normalization(self, mean: Sequence[float], std: Sequence[float], bits: int) -> None:
        """Set the measured mean and standard deviation of each channel, and the bits of the images."""
        self.mean.copy_(torch.tensor(mean).reshape(self.mean.shape))
        self.std.copy_(torch.tensor(std).reshape(self.std.shape))
        self.bits.fill_(bits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, C, H, W)` for images `(B, N, H, W)` uint8 or uint16, calibrated if there is a calibrator.

        `N` is `channels`; three channels are R, G, B.
        """
        logits: torch.Tensor = self.outputs(images)["out"]
        if self.calibrator is not None:
            logits = self.calibrator(logits, images)
        return logits

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the uncalibrated logits `(B, C, H, W)`: `out` of the head, and `aux` of the auxiliary head, if any."""
        normalized = (images.float() - self.mean) / self.std
        if normalized.device.type not in ("cpu", "cuda"):
            normalized = normalized.contiguous()  # see `devices.memory_format`
        if self.code is not None:
            return network_outputs(self.network, normalized, self.code.divisor)
        outputs: dict[str, torch.Tensor] = self.network(normalized)
        return outputs


def assemble(
    model: str,
    normalization: str,
    classes: int,
    auxiliary_head: bool = False,
    channels: int = RGB,
    code: ModelCode | None = None,
    pretrained: bool = False,
) -> Segmenter:
    """Build a model with random weights.

    Args:
        model: one of `NETWORKS`, or a user's function `PACKAGE.MODULE:FUNCTION`.
        normalization: one of `NORMALIZATION`, or `MEASURED`.
        classes: number of output channels.
        auxiliary_head: whether to build the auxiliary head of a torchvision network.
        channels: number of input channels.
        code: the code of an own network; None for torchvision's.
        pretrained: passed to an own function that has a parameter of this name.
    """
    if code is not None:
        own = Segmenter(code.build(classes, channels, pretrained), normalization, channels)
        own.code = code
        return own
    options = {"aux_loss": True} if auxiliary_head else {}
    network = NETWORKS[model].build(weights=None, weights_backbone=None, num_classes=classes, **options)
    if channels != RGB:
        _set_input_channels(network, channels)
    return Segmenter(network, normalization, channels)


def first_convolution(network: nn.Module) -> str:
    """Return the name of the convolution that sees the image: the first one of the network."""
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _set_input_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with `channels` inputs, initialized as torchvision initializes it."""
    name = first_convolution(network)
    old = network.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,  # type: ignore[arg-type]
        bias=old.bias is not None, padding_mode=old.padding_mode,
    )  # fmt: skip
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    network.set_submodule(name, new)


def build(config: "ModelConfig", classes: int, code: ModelCode | None = None, pretrained: bool = False) -> Segmenter:
    """Build the configured model with `classes` output channels and random weights.

    Args:
        config: the configuration.
        classes: number of output channels.
        code: the stored code of an own network; None reads it from the files.
        pretrained: see `assemble`.

    Raises:
        InputError: `normalization=auto` is not resolved, because the starting weights come from elsewhere; or the code
            of an own network does not run.
    """
    if code is None and is_own(config.model):
        code = local_code(config.model)
    channels = getattr(config, "channels", RGB)
    normalization, auxiliary = config.known_normalization(), config.auxiliary_loss != 0
    model = assemble(config.model, normalization, classes, auxiliary, channels, code, pretrained)
    if config.batch_norm_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config.batch_norm_momentum
    return model
