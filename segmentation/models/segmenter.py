"""`Segmenter`: uint8 RGB images in, logits out. It normalizes its own input, so the scale cannot be wrong.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from segmentation.calibration.calibrators import Calibrator
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
BACKBONES = ("backbone", "encoder")
"""Names of the backbone in torchvision's networks, and in those of other libraries."""


class Segmenter(nn.Module):
    """A network with input normalization and an optional calibrator.

    Attributes:
        network: torchvision's network, or a user's own.
        calibrator: maps logits to calibrated logits; None leaves them unchanged.
        code: the code of a user's own network; None for torchvision's.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, normalization: str) -> None:
        super().__init__()
        self.network = network
        self.calibrator: Calibrator | None = None
        self.code: ModelCode | None = None
        for name, values in zip(("mean", "std"), NORMALIZATION[normalization], strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    @property
    def backbone_name(self) -> str | None:
        """Name of the part that ImageNet weights initialize; an own network may have none."""
        return next((name for name in BACKBONES if isinstance(getattr(self.network, name, None), nn.Module)), None)

    @property
    def backbone(self) -> nn.Module:
        """The part that ImageNet weights initialize; an empty module if there is none."""
        return self.network.get_submodule(self.backbone_name) if self.backbone_name else nn.Module()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, C, H, W)` for RGB images `(B, 3, H, W)` uint8, calibrated if there is a calibrator."""
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
    channels: int = 3,
    code: ModelCode | None = None,
    pretrained: bool = False,
) -> Segmenter:
    """Build a model with random weights.

    Args:
        model: one of `NETWORKS`, or a user's function `PACKAGE.MODULE:FUNCTION`.
        normalization: one of `NORMALIZATION`.
        classes: number of output channels.
        auxiliary_head: whether to build the auxiliary head of a torchvision network.
        channels: number of input channels.
        code: the code of an own network; None for torchvision's.
        pretrained: passed to an own function that has a parameter of this name.
    """
    if code is not None:
        own = Segmenter(code.build(classes, channels, pretrained), normalization)
        own.code = code
        return own
    options = {"aux_loss": True} if auxiliary_head else {}
    network = NETWORKS[model].build(weights=None, weights_backbone=None, num_classes=classes, **options)
    return Segmenter(network, normalization)


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
    channels = getattr(config, "channels", 3)
    normalization, auxiliary = config.known_normalization(), config.auxiliary_loss != 0
    model = assemble(config.model, normalization, classes, auxiliary, channels, code, pretrained)
    if config.batch_norm_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config.batch_norm_momentum
    return model
