"""Registry of torchvision's segmentation networks."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn
from torchvision.models import segmentation


class Architecture(NamedTuple):
    """A torchvision segmentation network."""

    build: Callable[..., nn.Module]
    backbone: str
    """Name of the torchvision classifier that the backbone comes from."""


NETWORKS = {
    "fcn_resnet50": Architecture(segmentation.fcn_resnet50, "resnet50"),
    "fcn_resnet101": Architecture(segmentation.fcn_resnet101, "resnet101"),
    "deeplabv3_resnet50": Architecture(segmentation.deeplabv3_resnet50, "resnet50"),
    "deeplabv3_resnet101": Architecture(segmentation.deeplabv3_resnet101, "resnet101"),
    "lraspp_mobilenet_v3_large": Architecture(segmentation.lraspp_mobilenet_v3_large, "mobilenet_v3_large"),
}

CLASS_LAYERS = ("classifier.4.", ".low_classifier.", ".high_classifier.")
"""Parts of the tensor names of the layers with one output per class, in the main and the auxiliary heads."""
