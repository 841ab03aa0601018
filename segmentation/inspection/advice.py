"""What to set for a data set, and why. Recommends only fields that the configuration of training has."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from segmentation.config import MEASURED, RGB, DataConfig, TrainingConfig
from segmentation.errors import counted, listed
from segmentation.inspection.problems import MIN_KEPT_AREA, RARE_IMAGES
from segmentation.inspection.split import InspectedSplit
from segmentation.io.channels import counted as channels_of

CELL = 64
"""Pixels of the prepared image for each cell of the feature map: FCN and DeepLabV3 reduce width and height by 8."""
SIDES = (64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024)
"""Values of `resize` to choose from."""
MAX_COST = 16
"""Most times that the recommended `resize` may multiply the number of pixels, and so the time of training."""
IMBALANCE = 20
"""Ratio of the most to the least frequent class from which weighted classes are recommended."""
STEPS = 4
"""Least optimizer steps in an epoch."""
VAL_FRACTION, VAL_IMAGES = 0.2, 20
"""Usual fraction of images to validate on, and the least number: intervals over fewer images are too narrow."""
NORMALIZATIONS = {
    "signed_unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation that each normalization assumes."""


@dataclass(frozen=True)
class Advice:
    """A field to set, and the reason."""

    field: str
    value: str | int | float | None
    reason: str


def advise(splits: Sequence[InspectedSplit], config: DataConfig) -> list[Advice]:
    """Return what to set for training on these splits; empty if the configuration fits."""
    known = {field.name for field in fields(TrainingConfig)}
    found = [
        *_channels(splits, config),
        *_sizes(splits, config),
        *_normalization(splits, config),
        *_splits(splits, config),
        *_imbalance(splits, config),
    ]
    return [advice for advice in found if advice.field in known]


def _channels(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    """Recommend `channels` where most files have another number."""
    kinds = [image.image_kind for split in splits for image in split.images if image.image_kind is not None]
    if not kinds:
        return
    ((channels, count),) = Counter(kind.channels for kind in kinds).most_common(1)
    if channels != config.channels:
        bits = " or ".join(map(str, sorted({kind.bits for kind in kinds if kind.channels == channels})))
        yield Advice(
            "channels", channels,
            f"{count} of {len(kinds)} image files have {channels_of(channels)} of {bits} bits",
        )  # fmt: skip


def _sizes(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    """Recommend `resize` so that no class is too small to see, and `crop` so that most of each image is used."""
    sizes = [image.size for split in splits for image in split.sound if image.size is not None]
    if not sizes:
        return
    resize = config.resize
    short = int(np.median([min(size) for size in sizes]))
    wanted = _wanted_resize(splits, config, short)
    if wanted is not None:
        resize, small, smaller = wanted
        before = "at their own size" if config.resize is None else f"at resize={config.resize}"
        cost = (
            "" if config.resize is None else f". Training takes about {_times((resize / config.resize) ** 2)} as long"
        )
        after = "no class is that small" if not smaller else f"only {', '.join(smaller)} still do"
        yield Advice(
            "resize", resize,
            f"{before}, half of the images that show {', '.join(small)} show less of it than {CELL} pixels, one cell "
            f"of the model's feature map; at {resize}, {after}{cost}",
        )  # fmt: skip
    if config.crop is not None and "center" not in (config.crop_at, config.score_crop):
        return
    shapes = {_resized(size, resize) for size in sizes}
    lowest = min(min(shape) for shape in shapes)
    if config.crop is None and len(shapes) > 1:
        yield Advice("crop", resize or lowest, f"the images have {len(shapes)} sizes, and batches need one size")
    elif config.crop is not None and len(shapes) == 1:
        if (config.crop, config.crop) not in shapes:
            width, height = next(iter(shapes))
            inside = min(config.crop, width) * min(config.crop, height) / (width * height)
            yield Advice(
                "crop", None,
                f"all images have the same shape, {width} x {height} after resizing, so that none needs a crop; "
                f"crop={config.crop} would leave out {1 - inside:.0%} of the pixels",
            )  # fmt: skip
    elif config.crop is not None and config.crop != lowest:
        reason = "it is the largest square that fits into every image"
        if config.crop > lowest:
            reason = f"crop={config.crop} is larger than the smallest image, {lowest} pixels; {reason}"
        yield Advice("crop", lowest, reason)
    if config.crop is not None and len(shapes) > 1:
        yield from _positions(splits, config)


def _positions(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    """Recommend `crop_at` and `score_crop` where the center crop loses much of a class."""
    for name, value, effect in (
        ("crop_at", "class", "crops at random positions around a pixel of a class drawn evenly show every part"),
        ("score_crop", "whole", "this scores whole images"),
    ):
        for split in splits:
            if (split.name == config.train_split) != (name == "crop_at") or split.labels is None:
                continue
            lost = [
                label for index, label in enumerate(split.labels.names)
                if split.holding[1, index] >= RARE_IMAGES and split.kept[index] < MIN_KEPT_AREA
            ]  # fmt: skip
            if lost:
                yield Advice(
                    name, value,
                    f"the center crop of {split.name} has less than {MIN_KEPT_AREA:.0%} of the area of {listed(lost)}; "
                    f"{effect}",
                )  # fmt: skip
                break


def _resized(size: tuple[int, int], resize: int | None) -> tuple[int, int]:
    """Return width and height after `resize`, as torchvision computes them."""
    if resize is None:
        return size
    width, height = size
    long = int(resize * max(size) / min(size))
    return (resize, long) if width <= height else (long, resize)


def _wanted_resize(
    splits: Sequence[InspectedSplit], config: DataConfig, short: int
) -> tuple[int, list[str], list[str]] | None:
    """Return the smallest `resize` at which no class is too small, the classes that are, and those that still are."""
    if config.resize is None:
        return None
    areas = _relative_areas(splits)

    def small(side: int) -> list[str]:
        return [name for name, area in areas.items() if area * side**2 < CELL]

    now = small(config.resize)
    larger = [
        side for side in SIDES if config.resize < side <= short and side**2 <= MAX_COST * config.resize**2
    ]  # fmt: skip
    if not now or not larger:
        return None
    fewest = min(len(small(side)) for side in larger)
    best = next(side for side in larger if len(small(side)) == fewest)
    return (best, now, small(best)) if fewest < len(now) else None


def _relative_areas(splits: Sequence[InspectedSplit]) -> dict[str, float]:
    """Return the median area of each class, in squares of the image's shorter side, in the split where it is smallest.

    Leaves out classes in a split where only few images show them.
    """
    found: dict[str, float] = {}
    for split in splits:
        areas: dict[int, list[float]] = {}
        for image in split.sound:
            for value, count, _, _ in image.counts if image.size is not None else ():
                areas.setdefault(value, []).append(count / min(image.size or (1,)) ** 2)
        for index, name in enumerate(() if split.labels is None else split.labels.names):
            if len(areas.get(index, ())) >= RARE_IMAGES:
                found[name] = min(float(np.median(areas[index])), found.get(name, math.inf))
    return found


def _times(factor: float) -> str:
    return f"{factor:.0f} times" if factor >= 1.95 else f"{factor:.1f} times"


def channel_statistics(splits: Sequence[InspectedSplit]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation `(3,)` of the channels in [0, 1], each image counted once; None without any.

    They are measured on images reduced to 64 pixels, which takes a little off the standard deviation.
    """
    colours = [image.colours for split in splits for image in split.images if image.colours is not None]
    if not colours:
        return None
    mean = np.mean([each.mean for each in colours], axis=0)
    square = np.mean([each.square for each in colours], axis=0)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _normalization(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    """Recommend the normalization after which the channels are nearest to mean 0 and standard deviation 1."""
    kinds = [image.image_kind for split in splits for image in split.sound if image.image_kind is not None]
    if config.channels != RGB or any(kind.bits > 8 for kind in kinds):
        yield Advice(
            "normalization", MEASURED,
            "the published mean and standard deviations are those of RGB images of 8 bits; auto measures these, too",
        )  # fmt: skip
        return
    statistics = channel_statistics(splits)
    if statistics is None or not statistics[1].all():
        return
    mean, std = statistics
    after = {
        name: (float(np.mean((mean - shift) / scale)), float(np.mean(std / scale)))
        for name, (shift, scale) in ((name, map(np.array, pair)) for name, pair in NORMALIZATIONS.items())
    }
    best = min(after, key=lambda name: abs(after[name][0]) + abs(math.log(after[name][1])))
    other = next(name for name in after if name != best)
    yield Advice(
        "normalization",
        best,
        f"inputs then have mean {after[best][0]:.2f} and standard deviation {after[best][1]:.2f}, near 0 and 1; with "
        f"{other} they have {after[other][0]:.2f} and {after[other][1]:.2f}. Weights of another "
        f"run or file need the normalization they were trained with, which auto takes",
    )


def _splits(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    """Recommend `val_fraction` where no image is there to validate on, and `batch_size` for few training images."""
    by_name = {split.name: split for split in splits}
    train = by_name.get(config.train_split)
    if train is None or not train.sound:
        return
    images = len(train.images)
    validation = by_name.get(config.val_split)
    if validation is not None and validation.is_absent:
        fraction = max(VAL_FRACTION, min(0.5, math.ceil(20 * VAL_IMAGES / images) / 20))  # a multiple of 1/20
        held_out = round(fraction * images)
        yield Advice(
            "val_fraction", fraction,
            f"there is no split {config.val_split}; this takes {held_out} of the {images} training images to validate "
            f"on",
        )  # fmt: skip
        images -= held_out
    batch = TrainingConfig.batch_size
    if images < STEPS * batch:
        fitting = 2 ** int(math.log2(max(2, images / STEPS)))
        steps = counted(math.ceil(images / batch), "optimizer step")
        yield Advice(
            "batch_size", fitting,
            f"{images} training images give {steps} per epoch at batch_size={batch}, and "
            f"{math.ceil(images / fitting)} at {fitting}",
        )  # fmt: skip


def _imbalance(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Advice]:
    for split in splits:
        if split.name != config.train_split or split.labels is None:
            continue
        pixels = split.pixels[0, : len(split.labels)]
        present = np.where(split.holding[0, : len(split.labels)] >= RARE_IMAGES, pixels, 0)
        if not present.any():
            return
        most, least = int(present.argmax()), int(np.where(present > 0, present, present.max()).argmin())
        ratio = present[most] / present[least]
        if ratio >= IMBALANCE:
            yield Advice(
                "class_weights", "median_frequency",
                f"{split.labels.names[most]} has {ratio:,.0f} times as many pixels as {split.labels.names[least]}, the "
                f"rarest class that at least {RARE_IMAGES} images show. "
                f"Weights raise the IoU of rare classes and make the confidence less reliable: calibrate afterwards",
            )  # fmt: skip
