"""From the configuration to an optimiser, and to the learning rate at each step."""

import torch
from torch import nn

from segmentation.config import OptimizationConfig
from segmentation.models.segmenter import Segmenter


def build_optimizer(network: Segmenter, config: OptimizationConfig) -> torch.optim.Optimizer:
    """SGD or AdamW with two parameter groups, the backbone and the head; each has a `factor` of the learning rate."""
    backbone = list(network.backbone.parameters())
    inside = {id(parameter) for parameter in backbone}
    head = [parameter for parameter in network.parameters() if id(parameter) not in inside]
    factor = config.backbone_learning_rate_factor
    groups = [
        {"params": backbone, "factor": 1.0 if factor is None else factor},
        {"params": head, "factor": config.head_learning_rate_factor},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def learning_rate(config: OptimizationConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step counted from 0, before a group's own factor.

    The polynomial schedule with power 0.9 is that of Chen et al., "DeepLab", TPAMI 2018.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return float(config.learning_rate * (1 - progress) ** 0.9)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the rate of every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["factor"]


def trainable(module: nn.Module, on: bool) -> None:
    """Let a part of a network learn, or hold its parameters as they are."""
    for parameter in module.parameters():
        parameter.requires_grad_(on)
