"""Optimizer and learning rate schedule of a configuration."""

import math
from typing import Any

import torch

from segmentation.config import OptimizationConfig
from segmentation.devices import copied_to_host
from segmentation.models.segmenter import Segmenter


def build_optimizer(model: Segmenter, config: OptimizationConfig) -> torch.optim.Optimizer:
    """SGD or AdamW with two parameter groups, backbone and head; `factor` scales the learning rate of each group."""
    backbone = list(model.backbone.parameters())
    in_backbone = {id(parameter) for parameter in backbone}
    head = [parameter for parameter in model.parameters() if id(parameter) not in in_backbone]
    factor = config.backbone_learning_rate_factor
    groups = [
        {"params": backbone, "factor": 1.0 if factor is None else factor},
        {"params": head, "factor": config.head_learning_rate_factor},
    ]
    fused = is_fused_on(next(model.parameters()).device)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
    )


def is_fused_on(device: torch.device) -> bool:
    """Whether to use PyTorch's fused kernels, which read on the device whether to skip an update.

    On the CPU, where reading costs nothing, they give other last digits.
    """
    return device.type == "cuda"


def update(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """Update the weights, or leave weights and momentum as they are.

    Args:
        optimizer: of `build_optimizer`.
        skip: float32 scalar on the device of the weights: 1 skips the update, 0 does not.
    """
    if not optimizer.defaults["fused"]:
        if not copied_to_host(skip)():  # waits for a device other than the CPU
            optimizer.step()
        return
    if optimizer.defaults.get("momentum"):
        for group in optimizer.param_groups:
            for each in group["params"]:  # a skipped first update would leave them uninitialized
                if each.grad is not None and not optimizer.state[each]:
                    optimizer.state[each]["momentum_buffer"] = torch.zeros_like(each)
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state that a checkpoint holds, possibly of another device; the kernels stay those of this device."""
    groups = [group | {"fused": optimizer.defaults["fused"]} for group in state["param_groups"]]
    optimizer.load_state_dict(state | {"param_groups": groups})


def learning_rate(config: OptimizationConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0, before the factor of each parameter group.

    The polynomial schedule with power 0.9 is that of Chen et al., "DeepLab", TPAMI 2018; the cosine schedule that of
    Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return float(config.learning_rate * (1 - progress) ** 0.9)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group to `value` times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["factor"]
