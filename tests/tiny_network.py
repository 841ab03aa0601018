"""A network that trains in milliseconds, for tests of what happens around a network."""

from torch import nn

NAME = f"{__name__}:tiny"
"""Value of the field `model`."""


def tiny(classes: int, channels: int) -> nn.Module:
    """Return two convolutions; they classify a pixel by the colours around it."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
    )  # fmt: skip
