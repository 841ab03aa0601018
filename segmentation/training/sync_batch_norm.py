"""Batch norm over the batch of all processes together, on the CPU too, where torch has none.

Definition: Ioffe and Szegedy, "Batch Normalization", ICML 2015; here the batch is that of the whole team.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


@contextmanager
def synchronised(network: nn.Module) -> Iterator[None]:
    """Inside the `with`, every batch norm of the network that is learning sees the batches of all processes.

    Parameters, running statistics and their names stay where they are.
    """
    layers = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
    try:
        for layer in layers:
            layer.__class__ = _OnGpu if layer.weight.is_cuda else SyncBatchNorm2d
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm2d


class _OnGpu(nn.BatchNorm2d, nn.SyncBatchNorm):
    """torch's own, which is still a `BatchNorm2d`."""

    process_group = None
    forward = nn.SyncBatchNorm.forward


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A `BatchNorm2d` on the CPU whose mean and variance are those of the values of all processes, each counting once.

    Where it is not learning, it is as ever.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Normalise `(B, C, H, W)`; each process may have another `B`, `H` and `W`."""
        if not self.training:
            return nn.BatchNorm2d.forward(self, input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None  # noqa: PT018
        self._check_input_dim(input)
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        normalised: torch.Tensor = _Normalisation.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, share, self.eps
        )
        return normalised


class _Normalisation(torch.autograd.Function):
    """Batch norm on the CPU; the gradients of its weight and bias are of this process's values alone."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        share: float,
        eps: float,
    ) -> torch.Tensor:
        own = values.numel() // values.shape[1]
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        mean, var = (each.double() for each in torch.batch_norm_update_stats(exact, None, None, share))
        sums = torch.cat([own * mean, own * (var + mean**2), torch.tensor([own], dtype=torch.float64)])
        dist.all_reduce(sums)
        count = sums[-1].item()
        if count < 2:
            raise ValueError("Expected more than 1 value per channel when training")  # in torch's own words
        mean, square = (sums[:-1] / count).chunk(2)
        var = (square - mean**2).clamp(min=0)
        running_mean.lerp_(mean.to(running_mean.dtype), share)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), share)
        mean, var = mean.to(running_mean.dtype), var.to(running_var.dtype)
        ctx.save_for_backward(values, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(values, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, mean, var = ctx.saved_tensors
        by_values, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(  # as if mean and var were constants
            gradients[0], values, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([by_weight, by_bias]).double()
        dist.all_reduce(sums)
        deviation = (var + ctx.eps).sqrt()
        through_var, through_mean = (
            (part.to(weight.dtype) * weight / ctx.count)[:, None, None] for part in sums.chunk(2)
        )
        inverse = (1 / deviation)[:, None, None]
        through = (values - mean[:, None, None]).mul_(through_var * inverse**2).add_(through_mean * inverse)
        return by_values.sub_(through), by_weight, by_bias, None, None, None, None
