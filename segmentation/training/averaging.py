"""Exponential moving average of the weights of a model.

Reference: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992.
The decay grows during the first steps, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`: otherwise the
random starting weights would dominate short runs.
"""

from collections.abc import Mapping

import torch
from torch import nn


class AveragedWeights:
    """Moving average of the parameters and buffers of a model. One of both is in the model, the other is kept here."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start with the weights of the model as they are.

        Args:
            model: on the device on which it is trained.
            decay: in [0, 1); after many steps, the weight of the old average in each update.
        """
        self.decay = decay
        self.model = model
        self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        """The average while the model is trained; the trained weights while the model holds the average."""

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Move the average towards the weights of the model.

        Args:
            steps: number of optimizer steps so far, at least 1.
        """
        decay = min(self.decay, steps / (9 + steps))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.kept[name].lerp_(value, 1 - decay)
            else:
                self.kept[name].copy_(value)

    def load(self, average: Mapping[str, torch.Tensor]) -> None:
        """Continue with an average that was stored."""
        for name, value in average.items():
            self.kept[name].copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights in the model and the kept ones, in place."""
        for name, value in self.model.state_dict().items():
            before = value.clone()
            value.copy_(self.kept[name])
            self.kept[name].copy_(before)
