"""Predicts a class and a confidence for every pixel of an image at its original size.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from segmentation.io.channels import ChannelImage, Raster, resized
from segmentation.io.pixels import RGB
from segmentation.prediction.blending import Axis, Block, axis, blended
from segmentation.prediction.image_rows import ImageRows, ResizedRows, Rows
from segmentation.prediction.views import Views
from segmentation.system.full_precision import full_precision

STRIP = 2**17
"""Number of logits that are resized at a time: few enough for a core's cache, whatever the size of the image."""
BAND = 2**24
"""Number of logits (64 MB) that are resized in width at a time, before their rows. Most images are one band."""
VANISHED = -87.0
"""Logits this far below the highest one are raised to it, which changes no confidence: e**-87 is the smallest normal
float32. The exponential of lower ones takes torch ten times as long."""
WINDOW_PIXELS = 2**18
"""Pixels of all windows or images in a forward pass on the CPU; more do not make it faster. A GPU takes a batch."""
BATCH_SIZE = 16
"""Default number of windows in a forward pass."""
T = TypeVar("T")


class Prediction(NamedTuple):
    """Prediction for one image of `W` x `H` pixels."""

    classes: np.ndarray
    """`(H, W)` uint8, index of the most probable class; in a tie, the lowest index."""
    confidence: np.ndarray
    """`(H, W)` float32 in (0, 1], probability of that class."""
    probabilities: np.ndarray | None = None
    """`(C, H, W)` float32, probability of every class, if wanted."""

    def rows(self, top: int, bottom: int) -> "Prediction":
        """Return some rows of the prediction, as views."""
        chances = None if self.probabilities is None else self.probabilities[:, top:bottom]
        return Prediction(self.classes[top:bottom], self.confidence[top:bottom], chances)


class Band(NamedTuple):
    """Prediction for some rows of an image, at the full width."""

    top: int
    """First row."""
    prediction: Prediction


class _Part(NamedTuple):
    """Some rows of the logits of a view."""

    logits: torch.Tensor
    """`(1, C, rows, w)` float32."""
    first: int
    """Index of the first of these rows."""
    own: int
    """Number of rows of the complete logits."""


class _Sources(NamedTuple):
    """Between which rows of a part some rows of the image lie."""

    upper: torch.Tensor
    """`(rows,)` int64."""
    lower: torch.Tensor | None
    """`(rows,)` int64; None if the part has the rows of the image."""
    fraction: torch.Tensor | None
    """`(rows, 1)`, distance from the upper row in rows."""

    def strips(self, rows: int) -> Iterator["_Sources"]:
        """Yield the sources of a number of rows at a time."""
        for start in range(0, len(self.upper), rows):
            yield _Sources(*(None if each is None else each[start : start + rows] for each in self))  # type: ignore[arg-type]


class Predictor:
    """Predicts whole images at their original size, as `evaluate` with `score_at=original` scores them.

    Each image is resized as in training, but not cropped. The logits are resized to the image, before the softmax.
    With other `Views`, the probabilities of all views of the image are averaged.
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
        views: Views | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """Create a predictor from a model and the preparation that it was trained with.

        Args:
            model: computes logits `(B, C, h, w)` from images `(B, N, h, w)`; a calibrated model gives
                calibrated confidence.
            resize: length of the shorter side in pixels after resizing; None keeps the original size.
            interpolation: `bilinear`, `bicubic` or `nearest`.
            device: device of the model.
            flip: short for `views=Views(flip=True)`.
            channels: of the images that the model takes.
            bits: per channel of these images, 8 or 16.
            views: what the model sees of an image; None is the image resized as in training.
            batch_size: most windows in a forward pass.
        """
        self.model = model
        self.resize = resize
        self.interpolation = InterpolationMode(interpolation)
        self.device = torch.device(device)
        self.views = Views(flip=flip) if views is None else views
        self.channels = channels
        self.bits = bits
        self.batch_size = batch_size

    def with_views(self, views: Views) -> "Predictor":
        """Return a predictor of the same model that sees other views of the images."""
        found = copy(self)
        found.views = views
        return found

    def prepare(self, image: Raster) -> torch.Tensor:
        """Return an image as the model's input, `(N, h, w)` uint8 or uint16."""
        if isinstance(image, ChannelImage):
            if self.resize is not None:
                image = resized(image, self.resize, self.interpolation.value)
            return _as_input(image.values)
        image = image.convert("RGB")
        if self.resize is not None:
            image = transforms.resize(image, [self.resize], self.interpolation)
        return _as_input(np.array(image))

    def inputs(self, image: Raster) -> list[torch.Tensor]:
        """Return the image as the model's input at every scale, each `(N, h, w)` uint8 or uint16."""
        if self.views.scales == (1.0,):
            return [self.prepare(image)]
        sizes = self.views.sizes(image.width, image.height, self.resize)
        if isinstance(image, ChannelImage):
            return [_as_input(resized(image, min(size), self.interpolation.value).values) for size in sizes]
        image = image.convert("RGB")
        scaled = [transforms.resize(image, [height, width], self.interpolation) for width, height in sizes]
        return [_as_input(np.array(each)) for each in scaled]

    def __call__(self, images: Sequence[Raster], probabilities: bool = False) -> list[Prediction]:
        """Predict each image at its original size.

        Args:
            images: the images, of any size.
            probabilities: whether to return the probabilities of all classes.
        """
        if self.views.tile is not None:
            rasters = [image if isinstance(image, ChannelImage) else image.convert("RGB") for image in images]
            return [self._assembled(ImageRows(image), probabilities) for image in rasters]
        logits = self.logits([self.inputs(image) for image in images])
        return [
            at_size(of_image, (image.height, image.width), probabilities)
            for of_image, image in zip(logits, images, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, inputs: Sequence[Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
        """Return the logits `(1, C, h, w)` of all views of each image. Inputs of equal size form a batch.

        Args:
            inputs: for each image, what `inputs` returned.
        """
        found: list[list[torch.Tensor]] = [[] for _ in inputs]
        places = [(number, each) for number, of_image in enumerate(inputs) for each in of_image]
        views: list[list[torch.Tensor]] = [[] for _ in places]
        for indices in _by_shape([each for _, each in places]):
            for view in self._views([places[index][1] for index in indices]):
                for row, index in enumerate(indices):
                    views[index].append(view[row : row + 1])
        for (number, _), of_input in zip(places, views, strict=True):
            found[number] += of_input
        return found

    def bands(self, source: Rows, probabilities: bool = False) -> Iterator[Band]:
        """Predict an image in windows, and yield its rows from top to bottom.

        Memory holds a window, and some rows at the full width: those of a window's height, and the logits or
        probabilities of those that two rows of windows share.

        Args:
            source: the image.
            probabilities: whether to return the probabilities of all classes.

        Raises:
            ValueError: there is a single class, or a logit is NaN or infinite.
        """
        size, tile = (source.width, source.height), self.views.tile
        assert tile is not None, "windows need a size"
        blocks = []
        for width, height in self.views.sizes(*size, self.resize):
            view = source
            if (width, height) != size:
                view = ResizedRows(source, (width, height), self.interpolation.value)
            rows, columns = (axis(length, tile, self.views.overlap) for length in (height, width))
            windows = _ahead(self._windows(view, rows, columns))
            blocks.append(((width, height), rows, blended(rows, columns, windows)))
        if len(blocks) == 1 and blocks[0][0] == size:
            _, rows, found = blocks[0]
            yield from _direct(found, rows, source.width, probabilities)
        else:
            logits = [(height, _rows_of_logits(found, rows, width)) for (width, height), rows, found in blocks]
            yield from _combined(logits, size[::-1], probabilities)

    @torch.inference_mode()
    def _windows(self, source: Rows, rows: Axis, columns: Axis) -> Iterator[torch.Tensor]:
        """Yield the probabilities `(C, h, w)` of each window, row by row of windows."""
        most = self.batch_size
        if self.device.type == "cpu":
            most = max(1, min(most, WINDOW_PIXELS // (rows.size * columns.size)))
        for top in rows.starts:
            image = _as_input(source.rows(top, top + rows.size))
            for start in range(0, len(columns.starts), most):
                lefts = columns.starts[start : start + most]
                logits = self._views([image[:, :, left : left + columns.size] for left in lefts])
                _check_classes(logits[0])
                chances = sum(each.float().softmax(1) for each in logits)
                assert isinstance(chances, torch.Tensor)
                yield from chances.div_(len(logits)) if len(logits) > 1 else chances

    def _views(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the logits `(B, C, h, w)` of inputs of one size; with `flip`, also those of the mirror images."""
        batch = torch.stack(list(inputs)).to(self.device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with full_precision():
            views = [self.model(batch)]
            if self.views.flip:
                views.append(self.model(batch.flip(-1)).flip(-1))
        return views

    def _assembled(self, source: Rows, probabilities: bool) -> Prediction:
        """Predict an image in windows, as a whole."""
        bands = [band.prediction for band in self.bands(source, probabilities)]
        classes, confidence = (np.concatenate([band[index] for band in bands]) for index in (0, 1))
        chances = [band.probabilities for band in bands if band.probabilities is not None]
        return Prediction(classes, confidence, np.concatenate(chances, 1) if chances else None)


@torch.inference_mode()
def at_size(logits: Iterable[torch.Tensor], size: tuple[int, int], probabilities: bool = False) -> Prediction:
    """Return the prediction at size `(H, W)` from logits `(1, C, h, w)`; averages the probabilities of several.

    Raises:
        ValueError: there is a single class, or a logit is NaN or infinite.
    """
    views = [each.float() for each in logits]
    _check_classes(views[0])
    height, width = size
    channels = views[0].shape[1]
    result = _Result(channels, size, views[0].device, probabilities)
    rows = max(1, STRIP // (channels * width))
    band = max(rows, BAND // (channels * width) * height // max(each.shape[2] for each in views))
    for start in range(0, height, band):
        stop = min(start + band, height)
        parts = []
        for each in views:
            first, last = _source_rows(start, stop, each.shape[2], height)
            parts.append(_Part(each[:, :, first:last], first, each.shape[2]))
        result.fill(parts, start, stop)
    return result.prediction()


class _Result:
    """Classes and confidence of some rows of an image, which are filled in from logits."""

    def __init__(
        self, channels: int, size: tuple[int, int], device: torch.device, probabilities: bool, top: int = 0,
        of_height: int | None = None,
    ) -> None:  # fmt: skip
        """Create an empty result.

        Args:
            channels: number of classes.
            size: height and width.
            device: of the tensors.
            probabilities: whether to keep all probabilities.
            top: first row in the image.
            of_height: height of the image; None is that of the result.
        """
        self.size, self.top, self.image_height = size, top, of_height or size[0]
        self.classes = torch.empty(size, dtype=torch.uint8, device=device)
        self.confidence = torch.empty(size, device=device)
        self.probabilities = torch.empty((channels, *size), device=device) if probabilities else None

    def fill(self, parts: Sequence[_Part], start: int, stop: int) -> None:
        """Fill the image's rows `start` to `stop` from the logits of all views, resized to the image."""
        width = self.size[1]
        wide = [_widened(part.logits, width) for part in parts]
        rows = max(1, STRIP // (len(wide[0]) * width))
        sources = [_sources(part, start, stop, self.image_height).strips(rows) for part in parts]
        for top, *strips in zip(range(start, stop, rows), *sources, strict=True):
            own = slice(top - self.top, min(top + rows, stop) - self.top)
            interpolated = [_rows(each, strip) for each, strip in zip(wide, strips, strict=True)]
            if len(interpolated) == 1:
                shifted = interpolated[0].sub_(interpolated[0].amax(0))
                self.classes[own] = _first_zero(shifted)
                chances = shifted.clamp_min_(VANISHED).exp_()
                confidence = torch.sum(chances, 0, out=self.confidence[own]).reciprocal_()
                if self.probabilities is not None:
                    self.probabilities[:, own] = chances.mul_(confidence)
            else:
                mean = torch.stack([each.softmax(0) for each in interpolated]).mean(0)
                self.confidence[own], self.classes[own] = mean.max(0)
                if self.probabilities is not None:
                    self.probabilities[:, own] = mean

    def prediction(self) -> Prediction:
        """Return the filled rows.

        Raises:
            ValueError: a probability is NaN.
        """
        invalid = int(self.confidence.isnan().sum())
        if invalid:
            raise ValueError(
                f"the model gives no class to {invalid} of {self.size[0] * self.size[1]} pixels: its logits are NaN or "
                f"infinite there, probably because its training diverged; train it with a lower learning_rate"
            )
        chances = None if self.probabilities is None else self.probabilities.cpu().numpy()
        return Prediction(self.classes.cpu().numpy(), self.confidence.cpu().numpy(), chances)


@torch.inference_mode()
def _direct(blocks: Iterator[Block], rows: Axis, width: int, probabilities: bool) -> Iterator[Band]:
    """Yield the prediction from blocks of probabilities at the image's own size."""
    for top, bottom in zip(rows.starts, rows.ends, strict=True):
        result: _Result | None = None
        left = 0
        while left < width:
            block = next(blocks)
            left = block.left + block.probabilities.shape[2]
            across = slice(block.left, left)
            if result is None:
                channels, device = len(block.probabilities), block.probabilities.device
                result = _Result(channels, (bottom - top, width), device, probabilities)
            highest = block.probabilities.amax(0)
            result.confidence[:, across] = highest
            result.classes[:, across] = _first_zero(block.probabilities - highest)
            if result.probabilities is not None:
                result.probabilities[:, :, across] = block.probabilities
        assert result is not None
        yield Band(top, result.prediction())


@torch.inference_mode()
def _rows_of_logits(blocks: Iterator[Block], rows: Axis, width: int) -> Iterator[torch.Tensor]:
    """Yield the logarithms of blended probabilities, `(1, C, rows, width)`: logits with the same softmax."""
    for top, bottom in zip(rows.starts, rows.ends, strict=True):
        band: torch.Tensor | None = None
        left = 0
        while left < width:
            block = next(blocks)
            left = block.left + block.probabilities.shape[2]
            if band is None:
                band = block.probabilities.new_empty((len(block.probabilities), bottom - top, width))
            band[:, :, block.left : left] = block.probabilities
        assert band is not None
        yield as_logits(band)[None]


@torch.inference_mode()
def _combined(
    views: Sequence[tuple[int, Iterator[torch.Tensor]]], size: tuple[int, int], probabilities: bool
) -> Iterator[Band]:
    """Yield the prediction from rows of logits of several views, resized to the image and averaged.

    Args:
        views: for each view, its height and its logits from top to bottom.
        size: height and width of the image.
        probabilities: whether to return the probabilities of all classes.
    """
    height, width = size
    held = [_Part(next(rows), 0, own) for own, rows in views]
    channels, device = held[0].logits.shape[1], held[0].logits.device
    rows = max(1, BAND // (channels * width))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        parts = []
        for index, (own, more) in enumerate(views):
            first, last = _source_rows(start, stop, own, height)
            logits, top, _ = held[index]
            while True:
                passed = min(max(0, first - top), logits.shape[2])
                logits, top = logits[:, :, passed:], top + passed
                if top + logits.shape[2] >= last:
                    break
                logits = torch.cat([logits, next(more)], 2)
            held[index] = _Part(logits, top, own)
            parts.append(_Part(logits[:, :, : last - top], top, own))
        result = _Result(channels, (stop - start, width), device, probabilities, start, height)
        result.fill(parts, start, stop)
        yield Band(start, result.prediction())


def as_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of probabilities, whose softmax they are; one that has vanished becomes e**-87."""
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log_()


class LogProbabilities(torch.nn.Module):
    """A model that maps an image to the logarithms of its averaged probabilities, at the image's own size.

    They are logits in all that scores a model, since their softmax is the probabilities.
    """

    def __init__(self, model: torch.nn.Module, predictor: Predictor) -> None:
        """Create the module.

        Args:
            model: the predictor's model, whose mode follows that of this module.
            predictor: the preparation and the views.
        """
        super().__init__()
        self.model = model
        self.predictor = predictor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return `(B, C, H, W)` for images `(B, N, H, W)` at their own size."""
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        is_rgb = (self.predictor.channels, self.predictor.bits) == (RGB, 8)
        rasters = [Image.fromarray(array) if is_rgb else ChannelImage(array) for array in arrays]
        found = self.predictor(rasters, probabilities=True)
        stacked = torch.stack([torch.from_numpy(each.probabilities) for each in found])
        return as_logits(stacked).to(images.device)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items; a thread computes the next one while the caller works on the last."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _as_input(pixels: np.ndarray) -> torch.Tensor:
    """Return pixels `(h, w, N)` as `(N, h, w)`."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _check_classes(logits: torch.Tensor) -> None:
    """Raise a `ValueError` if logits `(B, C, h, w)` have a single class."""
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits.shape)} have {logits.shape[1]} channel, and a softmax needs at least two: "
            f"convert the logits z of a binary model by torch.cat([torch.zeros_like(z), z], 1)"
        )


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


def _sources(part: _Part, start: int, stop: int, height: int) -> _Sources:
    """Return between which rows of a part the image's rows `start` to `stop` lie; the image has `height` rows."""
    position = torch.arange(start, stop, dtype=torch.float32, device=part.logits.device)
    if part.own == height:
        return _Sources(position.long() - part.first, None, None)
    position = ((position + 0.5) * (part.own / height) - 0.5).clamp(0, part.own - 1)
    upper = position.long()
    lower = (upper + 1).clamp(max=part.own - 1)
    return _Sources(upper - part.first, lower - part.first, (position - upper)[:, None])


def _rows(wide: torch.Tensor, sources: _Sources) -> torch.Tensor:
    """Return rows of logits `(C, rows, W)` interpolated between those of `wide`, `(C, own, W)`, as a copy.

    Equals `F.interpolate(..., mode="bilinear", align_corners=False)`. Threads share the interpreter, so a few
    operations on many rows are faster than many on a few rows.
    """
    upper = wide.index_select(1, sources.upper)
    if sources.lower is None or sources.fraction is None:
        return upper
    return upper.lerp_(wide.index_select(1, sources.lower), sources.fraction)


def _by_shape(prepared: Sequence[torch.Tensor]) -> list[list[int]]:
    """Indices of the prepared images, grouped by their shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(prepared):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())
