"""Logits of a user's own network at the size of its input, whatever its forward pass returns.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def network_outputs(network: nn.Module, images: torch.Tensor, divisor: int) -> dict[str, torch.Tensor]:
    """Return the logits `(B, C, H, W)` of an own network by name: `out`, and `aux` if it returns them.

    Args:
        network: returns logits `(B, C, h, w)`, or a dictionary with them as `out`; smaller ones are resized.
        images: `(B, C, H, W)`, normalized.
        divisor: `H` and `W` are padded at the bottom and right to multiples of it, with the values at the border.
    """
    height, width = images.shape[-2:]
    if divisor > 1:
        images = F.pad(images, (0, -width % divisor, 0, -height % divisor), mode="replicate")
    padded = images.shape[-2:]
    outputs = {}
    for name, logits in named(network(images)).items():
        if logits.shape[-2:] != padded:
            logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
        outputs[name] = logits[..., :height, :width]
    return outputs


def named(returned: Any) -> dict[str, torch.Tensor]:
    """Return what a network returned as a dictionary with `out`, and `aux` if there is one."""
    if isinstance(returned, torch.Tensor):
        return {"out": returned}
    if isinstance(returned, Mapping):
        return {name: returned[name] for name in ("out", "aux") if returned.get(name) is not None}
    return {}
