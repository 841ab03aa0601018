"""`Segmenter`: uint8 RGB images in, logits out. It normalizes its own input, so the scale cannot be wrong."""

import torch
from torch import nn

from segmentation.calibration.calibrators import Calibrator
from segmentation.config import NORMALIZATIONS, ModelConfig
from segmentation.errors import InputError, one_of
from segmentation.models.networks import NETWORKS

NORMALIZATION = {
    "signed_unit": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Mean and standard deviation of the channels R, G, B, on the scale 0 to 255."""


class Segmenter(nn.Module):
    """A torchvision network with input normalization and an optional calibrator.

    Attributes:
        network: the torchvision network.
        calibrator: maps logits to calibrated logits; None leaves them unchanged.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, normalization: str) -> None:
        super().__init__()
        self.network = network
        self.calibrator: Calibrator | None = None
        for name, values in zip(("mean", "std"), NORMALIZATION[normalization], strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """The part that ImageNet weights initialize."""
        return self.network.get_submodule("backbone")

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
        outputs: dict[str, torch.Tensor] = self.network(normalized)
        return outputs


def build(config: ModelConfig, classes: int) -> Segmenter:
    """Build the configured model with random weights and `classes` output channels.

    Raises:
        InputError: `normalization=auto` is not resolved, because the starting weights come from elsewhere.
    """
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
        raise InputError(
            f"normalization=auto: the normalization of weights={config.weights} is unknown; "
            f"set normalization to one of {', '.join(NORMALIZATION)}"
        )
    return Segmenter(network, normalization)
