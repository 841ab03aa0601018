"""From pictures as people have them to a class and a confidence for every pixel.

This file goes along with every logged model, for a server that has nothing else of this project: it imports nothing of
it but what goes along, too.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from segmentation.system.full_precision import full_precision

STRIP = 2**17
"""Logits that are resized at a time: few enough for a core's cache, so that memory does not grow with the picture."""
BAND = 2**24
"""Logits that are widened at a time, before their rows are resized: 64 MB. Most pictures are one band."""


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

    def predict(self, prepared: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Predict prepared pictures `(3, h, w)` at the given sizes `(H, W)`; those of equal `h` and `w` go together."""
        return [at_size(logits, size) for logits, size in zip(self.logits(prepared), sizes, strict=True)]

    @torch.inference_mode()
    def logits(self, prepared: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """For each prepared picture its logits `(1, C, h, w)`, and with `flip` those of the mirrored one, put back."""
        found: list[list[torch.Tensor]] = [[] for _ in prepared]
        for places in _alike(prepared):
            batch = torch.stack([prepared[place] for place in places]).to(self.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with full_precision():
                views = [self.network(batch)]
                if self.flip:
                    views.append(self.network(batch.flip(-1)).flip(-1))
            for row, place in enumerate(places):
                found[place] = [view[row : row + 1] for view in views]
        return found


@torch.inference_mode()
def at_size(logits: Iterable[torch.Tensor], size: tuple[int, int]) -> Prediction:
    """The prediction at `(H, W)` from logits `(1, C, h, w)`; of several, their probabilities are averaged.

    Raises:
        ValueError: there is a single class, or a pixel has no confidence: a logit is NaN or infinite.
    """
    logits = list(logits)
    if logits[0].shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits[0].shape)} have {logits[0].shape[1]} channel(s), and a softmax needs at least two: "
            f"of a binary model's logits z stack [0, z], as torch.cat([torch.zeros_like(z), z], 1)"
        )
    height, width = size
    views = [each.float() for each in logits]
    channels, own = views[0].shape[1:3]
    classes = torch.empty(size, dtype=torch.uint8, device=views[0].device)
    confidence = torch.empty(size, device=views[0].device)
    rows = max(1, STRIP // (channels * width))
    band = max(rows, BAND // (channels * width) * height // own)
    for start in range(0, height, band):
        stop = min(start + band, height)
        first, last = _source_rows(start, stop, own, height)
        wide = [_widened(each[:, :, first:last], width) for each in views]
        for top in range(start, stop, rows):
            strip = slice(top, min(top + rows, stop))
            resized = [_rows(each, strip, height, own, first) for each in wide]
            if len(resized) == 1:
                shifted = resized[0].sub_(resized[0].amax(0))
                classes[strip] = _first_zero(shifted)
                confidence[strip] = shifted.exp_().sum(0).reciprocal_()
            else:
                confidence[strip], classes[strip] = torch.stack([each.softmax(0) for each in resized]).mean(0).max(0)
    unsure = int(confidence.isnan().sum())
    if unsure:
        raise ValueError(
            f"the model gives no class to {unsure} of {height * width} pixels: its logits are NaN or infinite there, "
            f"as those of a model that diverged in training; train it with a lower learning_rate"
        )
    return Prediction(classes.cpu().numpy(), confidence.cpu().numpy())


def _first_zero(shifted: torch.Tensor) -> torch.Tensor:
    """The lowest index at which `(C, H, W)`, nowhere above 0, is 0, in a third of the time that `argmax` takes."""
    rank = torch.arange(len(shifted), 0, -1, dtype=shifted.dtype, device=shifted.device)[:, None, None]
    return len(shifted) - torch.ge(shifted, 0, out=torch.empty_like(shifted)).mul_(rank).amax(0)


def _widened(logits: torch.Tensor, width: int) -> torch.Tensor:
    """Logits `(1, C, h, w)` resized to `(C, h, W)`."""
    logits = logits.contiguous()
    if logits.shape[3] != width:
        logits = F.interpolate(logits, (logits.shape[2], width), mode="bilinear", align_corners=False)
    return logits[0]


def _source_rows(start: int, stop: int, own: int, height: int) -> tuple[int, int]:
    """The rows, of `own`, that rows `start` to `stop` of `height` are interpolated from: the first, and one past."""
    if own == height:
        return start, stop
    first, last = ((place + 0.5) * (own / height) - 0.5 for place in (start, stop - 1))
    # a row more on either side than real numbers ask for, since `_rows` computes in float32
    return max(0, min(int(first) - 1, own - 1)), min(own, int(max(last, 0)) + 3)


def _rows(wide: torch.Tensor, strip: slice, height: int, own: int, first: int) -> torch.Tensor:
    """Some rows of logits `(C, own, W)` resized to `(C, H, W)`, copied; as `F.interpolate` without aligned corners.

    Args:
        wide: a part of the logits' rows, those that are needed.
        strip: the rows wanted, of `height`.
        height: `H`.
        own: rows of the whole logits.
        first: the number of the part's first row.
    """
    if own == height:
        return wide[:, strip.start - first : strip.stop - first].clone()
    place = torch.arange(strip.start, strip.stop, dtype=torch.float32, device=wide.device)
    place = ((place + 0.5) * (own / height) - 0.5).clamp(0, own - 1)
    above = place.long()
    below = (above + 1).clamp(max=own - 1)
    parts = wide.index_select(1, above - first), wide.index_select(1, below - first)
    return parts[0].lerp_(parts[1], (place - above)[:, None])


def _alike(prepared: Sequence[torch.Tensor]) -> list[list[int]]:
    """The places of pictures of equal size, together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(prepared):
        groups.setdefault(tuple(picture.shape), []).append(place)
    return list(groups.values())
