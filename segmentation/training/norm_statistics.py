"""Batch norm's running statistics of a batch that goes through the network in parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class _Sums:
    """Over the passes of one batch, for one layer with `C` channels."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.layer = layer
        self.momentum = layer.momentum
        self.mean, self.var = (tensor.clone() for tensor in _running(layer))
        self.passes = self.values = 0
        self.first = torch.zeros_like(self.mean, dtype=torch.float64)
        self.second = torch.zeros_like(self.first)

    def add(self, _: nn.Module, inputs: tuple[Any, ...], __: object) -> None:
        """Take over what a pass has left, whose momentum was 1: its own mean and unbiased variance."""
        values = inputs[0].numel() // inputs[0].shape[1]
        mean, var = (tensor.double() for tensor in _running(self.layer))
        self.first += values * mean
        self.second += (values - 1) * var + values * mean**2
        self.values += values
        self.passes += 1

    def settle(self) -> None:
        """Move the running statistics, as they were before, by those of the whole batch."""
        layer = self.layer
        layer.momentum = self.momentum
        if not self.passes:
            return
        assert self.momentum is not None
        assert layer.num_batches_tracked is not None
        mean = self.first / self.values
        var = (self.second / self.values - mean**2).clamp_(min=0) * (self.values / max(1, self.values - 1))
        for tensor, old, new in zip(_running(layer), (self.mean, self.var), (mean, var), strict=True):
            tensor.copy_(old.lerp(new.to(old.dtype), self.momentum))
        layer.num_batches_tracked.sub_(self.passes - 1)


@contextmanager
def one_update(network: nn.Module) -> Iterator[None]:
    """Inside the `with`, running statistics of several forward passes move once, as those of one batch would.

    Each pass still normalises by its own mean and variance. Of passes with `n_p` values a channel, mean `m_p` and
    biased variance `v_p`, the batch has the mean `m = sum(n_p m_p) / n` and the variance
    `sum(n_p (v_p + m_p^2)) / n - m^2` with `n = sum(n_p)`: exactly those of all its values.
    """
    layers = [
        module for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) and module.training and module.momentum is not None
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
                each.settle()


def _running(layer: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
