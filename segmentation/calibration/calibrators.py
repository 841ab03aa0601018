"""Post-hoc calibrators: corrections of a model's logits. `segmentation.calibration.fitting` fits them.

A new calibrator changes no probability; `load_state_dict` restores a fitted one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from segmentation.errors import one_of

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of every temperature."""
MIDDLE, REACH = math.log(LOWEST * HIGHEST) / 2, math.log(HIGHEST / LOWEST) / 2
"""Middle and half the width of the range of the log-temperature."""
TINY = torch.finfo(torch.float32).tiny


Measured = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel of the images, measured on the training split."""


class Calibrator(nn.Module, ABC):
    """A correction of logits. A new one changes no probability, but may shift the logits of all classes alike."""

    @abstractmethod
    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Corrected logits `(B, C, H, W)` float32 from logits `(B, C, H, W)` of images `(B, N, H, W)`."""


class Temperature(Calibrator):
    """Temperature scaling: divides all logits by one temperature. Predicted labels do not change.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return divided(logits, self.temperature)


class VectorScaling(Calibrator):
    """Vector scaling (Guo et al. 2017): a scale and a bias for each class. Predicted labels may change."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        logits = at_least_float32(logits)
        return (logits * self.weight[:, None, None] + self.bias[:, None, None]).float()


class LocalTemperature(Calibrator):
    """Local temperature scaling: a small CNN predicts each pixel's temperature from the logits and the image.

    Predicted labels do not change. Ding et al., "Local Temperature Scaling for Probability Calibration", ICCV 2021;
    dilated convolutions replace their tree of convolutions.
    """

    WIDTH = 8
    DILATIONS = (1, 2, 4)
    CLIP = 16.0
    """Log-probabilities below minus this are clipped before they enter the CNN."""

    mean: torch.Tensor | None
    std: torch.Tensor | None
    """Measured on the training split, `(N, 1, 1)`; None scales RGB images of 8 bits to [-1, 1]."""

    def __init__(self, classes: int, seed: int = 0, measured: Measured | None = None) -> None:
        super().__init__()
        self.classes = classes
        for name, values in zip(("mean", "std"), measured or (None, None), strict=True):
            self.register_buffer(name, None if values is None else torch.tensor(values).reshape(-1, 1, 1))
        channels = 3 if self.mean is None else len(self.mean)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers: list[nn.Module] = [nn.Conv2d(classes + channels, self.WIDTH, 1), nn.ReLU()]
            for dilation in self.DILATIONS:
                layers += [nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            self.features = nn.Sequential(*layers)
            self.field = nn.Conv2d(self.WIDTH, 1, 1)
        for parameter in self.field.parameters():
            nn.init.zeros_(parameter)

    def temperatures(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Temperature of each pixel, float32 `(B, 1, H, W)`; arguments as for `forward`."""
        scores = F.log_softmax(at_least_float32(logits).float(), 1).clamp(min=-self.CLIP) / (self.CLIP / 2) + 1
        if self.mean is None or self.std is None:
            scaled = images / 127.5 - 1
        else:
            scaled = (images.float() - self.mean) / self.std
        field = self.field(self.features(torch.cat([scores, scaled], 1)))
        return torch.exp(MIDDLE + REACH * torch.tanh(field.float()))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return divided(logits, self.temperatures(logits, images))


METHODS: dict[str, type[Calibrator]] = {
    "temperature": Temperature,
    "vector": VectorScaling,
    "local": LocalTemperature,
}


def build(method: str, classes: int, measured: Measured | None = None) -> Calibrator:
    """A new calibrator.

    Args:
        method: one of `METHODS`.
        classes: number of classes.
        measured: of the model's `normalization=measured`; None for RGB images of 8 bits.

    Raises:
        InputError: the method is unknown.
    """
    if METHODS[one_of("method", method, METHODS)] is LocalTemperature:
        return LocalTemperature(classes, measured=measured)
    return METHODS[method](classes)


def divided(logits: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Logits divided by the temperature after subtracting each pixel's largest, float32.

    The largest logit stays larger than all others. Plain division can round two unequal logits to the same number,
    which would change the predicted label.
    """
    logits = at_least_float32(logits)
    largest = logits.amax(1, keepdim=True)
    divided = ((logits - largest) / temperature).float()
    return torch.where(logits < largest, divided.clamp(max=-TINY), divided)


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Half-precision logits as float32, others unchanged."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
