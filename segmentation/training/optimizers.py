"""Optimizer and learning rate schedule of a configuration."""

import math

import torch

from segmentation.config import OptimizationConfig
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
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


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
