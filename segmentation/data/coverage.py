"""Warns before training if a class has no pixel in a split, or if most pixels are void."""

import json
from functools import cache

from segmentation.classes import VOID
from segmentation.data.split import Split
from segmentation.errors import InputError, listed

MAX_VOID_FRACTION = 0.5
"""A larger fraction of void pixels causes a warning."""


def report_coverage(split: Split, to_train: bool = False) -> None:
    """Print a warning, once per process, if a class has no pixel in the split or if most pixels are void.

    Args:
        split: any prepared split; its pixels were counted during preparation.
        to_train: whether the split is used for training.

    Raises:
        InputError: in a training split of `dataset=folder` with two classes, one class has no pixel and some pixels
            are void. The masks probably hold 0 and 255 where `classes.txt` declares 0 and 1.
    """
    pixels = split.pixels_by_value()
    name, void = split.title, pixels[VOID] / sum(pixels)
    absent = [class_name for index, class_name in enumerate(split.labels.names) if not pixels[index]]
    if absent:
        message = f"no pixel of {name} is of class {listed(absent, 20)}"
        has_one_class = len(absent) == len(split.labels) - 1
        if has_one_class and void and split.dataset == "folder":
            message += (
                f", and {void:.1%} are void (value 255). If 255 is a class in these masks, write this to "
                f"{split.location}/classes.json, which replaces classes.txt: {_classes_json(split, absent[0])}"
            )
            if to_train and len(split.labels) == 2:
                raise InputError(message)
        _warn(f"{message}. The data are in {split.location}")
    if void > MAX_VOID_FRACTION:
        _warn(
            f"{void:.1%} of the pixels of {name} are void (value 255), neither trained on nor scored; check the "
            f"mask values in {split.location}"
        )


def _classes_json(split: Split, name: str) -> str:
    """Content of a `classes.json` in which class `name` has the value 255 and the other classes keep their values."""
    return json.dumps({each: 255 if each == name else index for index, each in enumerate(split.labels.names)})


@cache
def _warn(message: str) -> None:
    print(f"Warning: {message}", flush=True)
