"""Predicts a class and a confidence for every pixel of an image at its original size.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from segmentation.io.bands import Bands, Raster, resized
from segmentation.system.full_precision import full_precision

STRIP = 2**17
"""Number of logits that are resized at a time: few enough for a core's cache, whatever the size of the image."""
BAND = 2**24
"""Number of logits (64 MB) that are resized in width at a time, before their rows. Most images are one band."""


class Prediction(NamedTuple):
    """Prediction for one image of `W` x `H` pixels."""

    classes: np.ndarray
    """`(H, W)` uint8, index of the most probable class; in a tie, the lowest index."""
    confidence: np.ndarray
    """`(H, W)` float32 in (0, 1], probability of that class."""


class Predictor:
    """Predicts whole images at their original size, as `evaluate` with `score_at=original` scores them.

    Each image is resized as in training, but not cropped. The logits are resized to the image, before the softmax.
    """

    def __init__(
        self,
        model: Callable[[torch.Tensor], torch.Tensor],
        resize: int | None,
        interpolation: str,
        device: torch.device | str = "cpu",
        flip: bool = False,
        channels: int = 3,
        bits: int = 8,
    ) -> None:
        """Create a predictor from a model and the preparation that it was trained with.

        Args:
            model: computes logits `(B, C, h, w)` from images `(B, N, h, w)`; a calibrated model gives
                calibrated confidence.
            resize: length of the shorter side in pixels after resizing; None keeps the original size.
            interpolation: `bilinear`, `bicubic` or `nearest`.
            device: device of the model.
            flip: also predict the mirrored image, and average both probabilities.
            channels: of the images that the model takes.
            bits: per channel of these images, 8 or 16.
        """
        self.model = model
        self.resize = resize
        self.interpolation = InterpolationMode(interpolation)
        self.device = torch.device(device)
        self.flip = flip
        self.channels = channels
        self.bits = bits

    def prepare(self, image: Raster) -> torch.Tensor:
        """Return an image as the model's input, `(N, h, w)` uint8 or uint16."""
        if isinstance(image, Bands):
            if self.resize is not None:
                image = resized(image, self.resize, self.interpolation.value)
            return torch.from_numpy(np.ascontiguousarray(image.values)).permute(2, 0, 1)
        image = image.convert("RGB")
        if self.resize is not None:
            image = transforms.resize(image, [self.resize], self.interpolation)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def __call__(self, images: Sequence[Raster]) -> list[Prediction]:
        """Predict each image at its original size."""
        sizes = [(image.height, image.width) for image in images]
        return self.predict([self.prepare(image) for image in images], sizes)

    def predict(self, prepared: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Predict prepared images `(N, h, w)` at the given sizes `(H, W)`; images of equal `h` and `w` form a batch."""
        return [at_size(logits, size) for logits, size in zip(self.logits(prepared), sizes, strict=True)]

    @torch.inference_mode()
    def logits(self, prepared: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Return the logits `(1, C, h, w)` of each prepared image; with `flip`, also those of the mirrored image."""
        found: list[list[torch.Tensor]] = [[] for _ in prepared]
        for indices in _by_shape(prepared):
            batch = torch.stack([prepared[index] for index in indices]).to(self.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with full_precision():
                views = [self.model(batch)]
                if self.flip:
                    views.append(self.model(batch.flip(-1)).flip(-1))
            for row, index in enumerate(indices):
                found[index] = [view[row : row + 1] for view in views]
        return found


@torch.inference_mode()
def at_size(logits: Iterable[torch.Tensor], size: tuple[int, int]) -> Prediction:
    """Return the prediction at size `(H, W)` from logits `(1, C, h, w)`; averages the probabilities of several.

    Raises:
        ValueError: there is a single class, or a logit is NaN or infinite.
    """
    logits = list(logits)
    if logits[0].shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits[0].shape)} have {logits[0].shape[1]} channel(s), and a softmax needs at least two: "
            f"convert the logits z of a binary model by torch.cat([torch.zeros_like(z), z], 1)"
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
    invalid = int(confidence.isnan().sum())
    if invalid:
        raise ValueError(
            f"the model gives no class to {invalid} of {height * width} pixels: its logits are NaN or infinite there, "
            f"probably because its training diverged; train it with a lower learning_rate"
        )
    return Prediction(classes.cpu().numpy(), confidence.cpu().numpy())


def _first_zero(shifted: torch.Tensor) -> torch.Tensor:
    """Return the lowest index of a 0 in `(C, H, W)`, which has no positive values; three times as fast as `argmax`."""
    rank = torch.arange(len(shifted), 0, -1, dtype=shifted.dtype, device=shifted.device)[:, None, None]
    return len(shifted) - torch.ge(shifted, 0, out=torch.empty_like(shifted)).mul_(rank).amax(0)


def _widened(logits: torch.Tensor, width: int) -> torch.Tensor:
    """Resize logits `(1, C, h, w)` to `(C, h, W)`."""
    logits = logits.contiguous()
    if logits.shape[3] != width:
        logits = F.interpolate(logits, (logits.shape[2], width), mode="bilinear", align_corners=False)
    return logits[0]


def _source_rows(start: int, stop: int, own: int, height: int) -> tuple[int, int]:
    """Return the range of the `own` source rows that rows `start` to `stop` of `height` are interpolated from."""
    if own == height:
        return start, stop
    first, last = ((row + 0.5) * (own / height) - 0.5 for row in (start, stop - 1))
    # one more row on either side, because `_rows` computes in float32
    return max(0, min(int(first) - 1, own - 1)), min(own, int(max(last, 0)) + 3)


def _rows(wide: torch.Tensor, strip: slice, height: int, own: int, first: int) -> torch.Tensor:
    """Return some rows of logits `(C, own, W)` resized to `(C, H, W)`, as a copy.

    Equals `F.interpolate(..., mode="bilinear", align_corners=False)`.

    Args:
        wide: the source rows that are needed.
        strip: the rows to return, of `height`.
        height: `H`.
        own: number of rows of the complete logits.
        first: index of the first row of `wide` in the complete logits.
    """
    if own == height:
        return wide[:, strip.start - first : strip.stop - first].clone()
    position = torch.arange(strip.start, strip.stop, dtype=torch.float32, device=wide.device)
    position = ((position + 0.5) * (own / height) - 0.5).clamp(0, own - 1)
    above = position.long()
    below = (above + 1).clamp(max=own - 1)
    parts = wide.index_select(1, above - first), wide.index_select(1, below - first)
    return parts[0].lerp_(parts[1], (position - above)[:, None])


def _by_shape(prepared: Sequence[torch.Tensor]) -> list[list[int]]:
    """Indices of the prepared images, grouped by their shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(prepared):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())
