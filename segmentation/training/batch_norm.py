"""Batch norm in training: frozen, synchronized between ranks, and its running statistics over several forward passes.

Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from segmentation.errors import InputError
from segmentation.training.process_group import ProcessGroup

USUAL_MOMENTUM = 0.1
"""PyTorch's momentum of running statistics."""
MOST_INITIAL = 0.2
"""A run that leaves a larger fraction of the initial running statistics prints a note."""


def layers_of(model: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Every batch norm layer of a model, synchronized or not."""
    return [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]


def freeze(model: nn.Module) -> None:
    """Keep statistics, scale and bias of every batch norm layer as they are."""
    for layer in layers_of(model):
        layer.eval()
        layer.requires_grad_(False)


def unsettled_note(model: nn.Module, steps: int) -> str:
    """Return a note if so few optimizer steps leave much of the initial running statistics; empty if they do not.

    A step moves the statistics by `momentum` towards those of its batch (PyTorch's `nn.BatchNorm2d`), so
    `(1 - momentum) ** steps` of the start is left.
    """
    momenta = [layer.momentum for layer in layers_of(model) if layer.running_mean is not None and layer.momentum]
    smallest = min(momenta, default=1.0)
    left = (1 - smallest) ** steps
    if left <= MOST_INITIAL:
        return ""
    remedy = "Train for more epochs, or with smaller batches"
    if smallest < USUAL_MOMENTUM:
        remedy = f"Set batch_norm_momentum={USUAL_MOMENTUM}, or train for more epochs"
    return (
        f"{left:.0%} of batch norm's running statistics will still be their initial values after all {steps} optimizer "
        f"steps. Validation uses them, so it may be far worse than training. {remedy}"
    )


@contextmanager
def synchronized(model: nn.Module, device: torch.device, group: ProcessGroup) -> Iterator[None]:
    """Inside the `with`, batch norm layers normalize over the batch of all ranks; the model is changed in place.

    Parameters, buffers and their names stay the same.

    Raises:
        InputError: the device is no GPU, on which `torch.nn.SyncBatchNorm` does not work.
    """
    if device.type != "cuda":
        raise InputError(
            f"sync_batch_norm=true needs GPUs, but device={device.type}: set sync_batch_norm=false; "
            f"freeze_batch_norm=true makes the backbone independent of the number of processes"
        )
    if group.size == 1:
        yield
        return
    originals = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    try:
        yield
    finally:
        for name, original in originals.items():
            original.training = model.get_submodule(name).training
            model.set_submodule(name, original)


def average_statistics(model: nn.Module, group: ProcessGroup) -> None:
    """Set running means and variances to those of the values of all ranks; each rank counts equally.

    The variance is the mean of the variances plus the variance of the means (law of total variance).
    """
    layers = [layer for layer in layers_of(model) if layer.running_mean is not None]
    if group.size == 1 or not layers:
        return
    pairs = [_statistics(layer) for layer in layers]
    mean, variance = (
        torch.cat([each.detach().cpu().double() for each in column]) for column in zip(*pairs, strict=True)
    )
    mean_of_all = group.mean(mean)
    variance_of_all = group.mean(variance + (mean - mean_of_all) ** 2)
    sizes = [layer.num_features for layer in layers]
    with torch.no_grad():
        for pair, *values in zip(pairs, mean_of_all.split(sizes), variance_of_all.split(sizes), strict=True):
            for tensor, value in zip(pair, values, strict=True):
                tensor.copy_(value)


@contextmanager
def one_update(model: nn.Module) -> Iterator[None]:
    """Inside the `with`, several forward passes update the running statistics once, as one pass over all values would.

    Each pass is still normalized by its own mean and variance. For passes `p` with `n_p` values per channel, mean `m_p`
    and biased variance `v_p`, all `n = sum(n_p)` values have the mean `m = sum(n_p m_p) / n` and the variance
    `sum(n_p (v_p + m_p^2)) / n - m^2`.
    """
    layers = [
        layer for layer in layers_of(model)
        if layer.training and layer.momentum is not None and layer.running_mean is not None
    ]  # fmt: skip
    sums = [_Sums(layer) for layer in layers]
    hooks = [layer.register_forward_hook(each.add) for layer, each in zip(layers, sums, strict=True)]
    try:
        for layer in layers:
            layer.momentum = 1.0
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for each in sums:
                each.finish()


class _Sums:
    """Sums over the forward passes of one batch through one layer with `C` channels."""

    def __init__(self, layer: nn.BatchNorm2d | nn.SyncBatchNorm) -> None:
        self.layer = layer
        self.momentum = layer.momentum
        self.mean, self.var = (tensor.clone() for tensor in _statistics(layer))
        self.passes = self.values = 0
        self.first = torch.zeros_like(self.mean, dtype=torch.float64)
        self.second = torch.zeros_like(self.first)

    def add(self, _: nn.Module, inputs: tuple[Any, ...], __: object) -> None:
        """Add a pass; with momentum 1, it has left its own mean and unbiased variance in the running statistics."""
        values = inputs[0].numel() // inputs[0].shape[1]
        mean, var = (tensor.double() for tensor in _statistics(self.layer))
        self.first += values * mean
        self.second += (values - 1) * var + values * mean**2
        self.values += values
        self.passes += 1

    def finish(self) -> None:
        """Restore the momentum and update the earlier running statistics with those of the whole batch."""
        layer = self.layer
        layer.momentum = self.momentum
        if not self.passes:
            return
        assert self.momentum is not None
        assert layer.num_batches_tracked is not None
        mean = self.first / self.values
        var = (self.second / self.values - mean**2).clamp_(min=0) * (self.values / max(1, self.values - 1))
        for tensor, old, new in zip(_statistics(layer), (self.mean, self.var), (mean, var), strict=True):
            tensor.copy_(old.lerp(new.to(old.dtype), self.momentum))
        layer.num_batches_tracked.sub_(self.passes - 1)


def _statistics(layer: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
