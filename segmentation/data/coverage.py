"""What the masks of a prepared split cover: a class without a pixel, or mostly void, is reported before training."""

import json
from functools import cache

from segmentation.classes import VOID
from segmentation.data.cache import Split
from segmentation.errors import InputError, listed

MOSTLY = 0.5
"""Fraction of void pixels above which it is reported."""


def report_coverage(split: Split, to_train: bool = False) -> None:
    """Print a warning, once in a process, where a split lacks a class or is mostly void.

    Pixels were counted when the split was prepared, so this holds for one that is found in the cache, too.

    Args:
        split: what is trained on or scored.
        to_train: whether it is trained on.

    Raises:
        InputError: of two classes of a folder to train on one has no pixel, and there is void: in masks of 0 and 255,
            whose `classes.txt` says 0 and 1, all of the foreground.
    """
    pixels = split.pixels_by_value()
    where, void = f"{split.dataset}/{split.name}", pixels[VOID] / sum(pixels)
    absent = [name for index, name in enumerate(split.labels.names) if not pixels[index]]
    if absent:
        message = f"no pixel of {where} is of class {listed(absent)}"
        only_one = len(absent) == len(split.labels) - 1
        if only_one and void and split.dataset == "folder":
            message += (
                f", and {void:.1%} are void (value 255). If 255 is a class in these masks, write "
                f"{split.location}/classes.json, which goes before classes.txt: {_with_255(split, absent[0])}"
            )
            if to_train and len(split.labels) == 2:
                raise InputError(message)
        _warn(f"{message}. The data are in {split.location}")
    if void > MOSTLY:
        _warn(
            f"{void:.1%} of the pixels of {where} are void (value 255), which is neither trained on nor scored; check "
            f"the values of the masks in {split.location}"
        )


def _with_255(split: Split, name: str) -> str:
    """What `classes.json` holds when 255 is the value of one class, and the others have theirs from `classes.txt`."""
    return json.dumps({each: 255 if each == name else index for index, each in enumerate(split.labels.names)})


@cache
def _warn(message: str) -> None:
    print(f"WARNING: {message}", flush=True)
