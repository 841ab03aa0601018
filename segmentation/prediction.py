"""From pictures as people have them to a class and a confidence for every pixel.

This file goes along with every logged model, for a server that has nothing else of this project: it imports none of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


class Prediction(NamedTuple):
    """What a network says about one picture of `W` x `H` pixels."""

    classes: np.ndarray
    """`(H, W)` uint8, the most probable class; the lowest index of equals."""
    confidence: np.ndarray
    """`(H, W)` float32, the probability of that class, in (0, 1]."""


class Predictor:
    """Predicts whole pictures at their own size, as `evaluate` with `score_at=original` scores them.

    A picture is resized as for training, but not cropped; the logits are resized to the picture, before the softmax.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        resize: int | None,
        interpolation: str,
        device: torch.device | str = "cpu",
        flip: bool = False,
    ) -> None:
        """Take a network and how its pictures were prepared.

        Args:
            network: logits `(B, C, h, w)` of pictures `(B, 3, h, w)` uint8; calibrated if they are to be.
            resize: length of the shorter side that the network sees, pixels; None is the picture's own.
            interpolation: `bilinear`, `bicubic` or `nearest`.
            device: where the network is.
            flip: also predict the mirrored picture, and average both probabilities.
        """
        self.network = network
        self.resize = resize
        self.interpolation = InterpolationMode(interpolation)
        self.device = torch.device(device)
        self.flip = flip

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        """The picture as the network sees it, `(3, h, w)` uint8."""
        picture = picture.convert("RGB")
        if self.resize is not None:
            picture = transforms.resize(picture, [self.resize], self.interpolation)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Prediction]:
        """Predict each picture at its own size."""
        sizes = [(picture.height, picture.width) for picture in pictures]
        return self.predict([self.prepare(picture) for picture in pictures], sizes)

    @torch.inference_mode()
    def predict(self, prepared: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Predict prepared pictures `(3, h, w)` at the given sizes `(H, W)`; those of equal `h` and `w` go together."""
        found: list[Prediction | None] = [None] * len(prepared)
        for places in _alike(prepared):
            batch = torch.stack([prepared[place] for place in places]).to(self.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            logits = [self.network(batch)]
            if self.flip:
                logits.append(self.network(batch.flip(-1)).flip(-1))
            for row, place in enumerate(places):
                found[place] = at_size([each[row : row + 1].float() for each in logits], sizes[place])
        return [prediction for prediction in found if prediction is not None]


def at_size(logits: Iterable[torch.Tensor], size: tuple[int, int]) -> Prediction:
    """The prediction at `(H, W)` from logits `(1, C, h, w)`; of several, their probabilities are averaged."""
    resized = [
        each if each.shape[2:] == size else F.interpolate(each, size, mode="bilinear", align_corners=False)
        for each in logits
    ]
    if len(resized) == 1:
        highest, label = resized[0].max(1)
        confidence = 1 / (resized[0] - highest[:, None]).exp_().sum(1)
    else:
        probabilities = torch.stack([each.softmax(1) for each in resized]).mean(0)
        confidence, label = probabilities.max(1)
    return Prediction(label[0].to(torch.uint8).cpu().numpy(), confidence[0].cpu().numpy())


def _alike(prepared: Sequence[torch.Tensor]) -> list[list[int]]:
    """The places of pictures of equal size, together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(prepared):
        groups.setdefault(tuple(picture.shape), []).append(place)
    return list(groups.values())
