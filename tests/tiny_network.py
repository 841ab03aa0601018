"""Networks that train in milliseconds, for tests of what happens around a network."""

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.segmentation import lraspp

NAME = f"{__name__}:tiny"
"""Value of the field `model`."""
LRASPP = f"{__name__}:small_lraspp"
"""Value of the field `model` for a network with a backbone and a head."""


def tiny(classes: int, channels: int) -> nn.Module:
    """Return two convolutions; they classify a pixel by the colours around it."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
    )  # fmt: skip


def small_lraspp(classes: int, channels: int) -> nn.Module:
    """Return torchvision's LR-ASPP on a backbone of two convolutions instead of MobileNetV3's 62.

    As with MobileNetV3, a pixel's logits depend on the whole image, and the backbone has batch norm.
    """
    return lraspp.LRASPP(Backbone(channels), low_channels=16, high_channels=32, num_classes=classes)


class Backbone(nn.Module):
    """Features of stride 4 and 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = _block(channels, 16, stride=4)
        self.high = _block(16, 32, stride=2)

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        low = self.low(images)
        return OrderedDict(low=low, high=self.high(low))


def _block(channels: int, features: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, features, 5, stride, padding=2, bias=False), nn.BatchNorm2d(features), nn.ReLU()
    )  # fmt: skip
