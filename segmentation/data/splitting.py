"""Divides the training split into training, validation and held-out images: `val_fraction`, `folds`, `group_by`.

The division depends on the images' names and on the classes in their masks: not on the seed, on the order of the files,
or on `resize` and `crop`. Images with the same content stay in one part, as do all images of a group.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from segmentation.config import DataConfig, check_parts
from segmentation.data.held_out import Subset, held_out
from segmentation.data.image_classes import ImageClasses, image_classes
from segmentation.data.source import HELD_OUT, Source
from segmentation.data.stratification import stratify
from segmentation.errors import InputError, counted, listed


def part(whole: Source, config: DataConfig, split: str) -> Source:
    """Return the part of the whole training split that is `split`: training, validation or held-out images.

    Raises:
        InputError: the images cannot be divided so.
    """
    check_parts(config)
    divided = config.val_fraction or config.folds is not None
    if not divided and config.group_by is None:
        if config.calibration_fraction:
            return held_out(whole, config.calibration_fraction, split == HELD_OUT)
        return whole
    if divided and config.val_split in (config.train_split, HELD_OUT):
        raise InputError(f"val_split={config.val_split} must differ from train_split and from {HELD_OUT}")
    table = image_classes(whole, config.cache_dir)
    groups = _groups(whole.names, table, config.group_by)
    chosen = np.arange(len(whole.names))
    if divided:
        in_val = _validation(groups, table, config)
        if split == config.val_split:
            return Subset(whole, tuple(np.flatnonzero(in_val).tolist()))
        chosen = np.flatnonzero(~in_val)
    if config.calibration_fraction:
        in_held_out = _fraction(
            "calibration_fraction", config.calibration_fraction, [groups[index] for index in chosen],
            table.present[chosen], config.group_by,
        )  # fmt: skip
        chosen = chosen[in_held_out if split == HELD_OUT else ~in_held_out]
    return Subset(whole, tuple(chosen.tolist()))


def _groups(names: Sequence[str], table: ImageClasses, pattern: str | None) -> list[str]:
    """The group of each image: the match of the pattern in its name, or the first image with the same content."""
    if pattern is None:
        first: dict[str, str] = {}
        for name, digest in sorted(zip(names, table.digests, strict=True)):
            first.setdefault(digest, name)
        return [first[digest] for digest in table.digests]
    groups, unmatched = [], []
    for name in names:
        match = re.search(pattern, name)
        found = match and match[1 if match.re.groups else 0]
        if found is None:
            unmatched.append(name)
        else:
            groups.append(found)
    if unmatched:
        raise InputError(
            f"group_by={pattern!r} does not match the names of {counted(len(unmatched), 'image')}: "
            f"{listed(unmatched)}. The group of every image must be in its name"
        )
    return groups


def _validation(groups: Sequence[str], table: ImageClasses, config: DataConfig) -> np.ndarray:
    """Whether each image is in the validation split, `(N,)` bool."""
    if config.folds is None:
        return _fraction("val_fraction", config.val_fraction, groups, table.present, config.group_by)
    if config.fold is None:
        raise InputError(
            f"folds={config.folds} needs fold, the part to validate on, from 0 to {config.folds - 1}, as in fold=0. "
            f"`models` and `tune` train all folds without it"
        )
    found = len(set(groups))
    if found < config.folds:
        raise InputError(
            f"folds={config.folds} is more than the {_counted(groups, config.group_by)}: set folds to at most {found}"
        )
    sizes = [len(groups) // config.folds + (fold < len(groups) % config.folds) for fold in range(config.folds)]
    return stratify(groups, table.present, sizes) == config.fold


def _fraction(
    field: str, fraction: float, groups: Sequence[str], present: np.ndarray, pattern: str | None
) -> np.ndarray:
    """Whether each image belongs to the held-out fraction, `(N,)` bool."""
    total, count = len(groups), round(fraction * len(groups))
    if not 0 < count < total or len(set(groups)) < 2:
        raise InputError(
            f"{field}={fraction} cannot divide the {_counted(groups, pattern)}: it would hold out {count} and leave "
            f"{total - count}, and each side needs at least one image and one group. Set another {field}, or add images"
        )
    chosen = stratify(groups, present, (count, total - count)) == 0
    if chosen.sum() != count:
        _note(
            f"Note: {field}={fraction} holds out {chosen.sum()} instead of {count} of {total} images, so that "
            f"{'groups stay whole' if pattern else 'both sides show every class and equal images stay together'}."
        )
    return chosen


def _counted(groups: Sequence[str], pattern: str | None) -> str:
    """Number of images, and of groups if that is smaller."""
    images, found = f"{len(groups)} training image{'' if len(groups) == 1 else 's'}", len(set(groups))
    if found == len(groups):
        return images
    kind = f"group{'' if found == 1 else 's'}" if pattern else "different ones"
    return f"{images} in {found} {kind}" if pattern else f"{images} ({found} {kind})"


@cache
def _note(message: str) -> None:
    print(message, flush=True)
