"""Inspecting a data set: sizes, classes, faults and equal images; compared with decoding its files."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.case import CAMVID, Case
from benchmarks.rounds import Contestant
from benchmarks.stages.training import use_all_cores
from segmentation.system.runtime import prepare_process
from studies.config import InspectConfig

TITLE = "Inspecting a data set"
OURS, REDUCED = "this project", "decoding the files, JPEG at a reduced scale"
PILLOW = "Pillow and numpy, one image at a time: sizes and classes"
SPLITS = ("train", "val")
SIDE = 64
"""Side in pixels to which the decoder may reduce a JPEG."""
UNLABELLED, VOID = 11, 255

Run = Callable[[], dict[str, Any]]


def cases(quick: bool) -> list[Case]:
    """Two splits of CamVid, with files in the page cache."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage inspection needs CamVid in {CAMVID}.")
    contestants = [
        Contestant(OURS, "ours", this_project),
        Contestant(REDUCED, "limit", decoding),
        Contestant(PILLOW, "peer", pillow),
    ]
    return [Case("CamVid, 480 x 360, training and validation", "images", len(_files()), contestants, _same)]


def _same(returned: Mapping[str, Any]) -> str:
    ours, theirs = returned[OURS], returned[PILLOW]
    assert ours["pixels"] == theirs["pixels"], f"numbers of pixels differ: {ours['pixels']} and {theirs['pixels']}"
    assert ours["sizes"] == theirs["sizes"], f"sizes differ: {ours['sizes']} and {theirs['sizes']}"
    assert returned[REDUCED]["images"] == sum(ours["sizes"].values())
    return (
        f"The loop finds the same sizes of {sum(ours['sizes'].values())} images and the same number of pixels of each "
        f"class. This project also hashes the files, measures colours, counts classes after resizing and cropping, and "
        f"searches for equal images. Where the files are decoded, nothing else is done."
    )


def this_project() -> Run:
    """`inspect` without its page and MLflow."""
    prepare_process()
    use_all_cores()
    from segmentation.inspection.advice import advise
    from segmentation.inspection.problems import find_problems
    from segmentation.inspection.split import inspect_splits

    config = InspectConfig(dataset="camvid", data_dir=str(CAMVID))

    def run() -> dict[str, Any]:
        inspected = inspect_splits(config, SPLITS)
        find_problems(inspected, config)
        advise(inspected, config)
        pixels = sum(split.pixels[0] for split in inspected)
        sizes = sum((split.sizes() for split in inspected), start=Counter[tuple[int, int]]())
        return {"pixels": _by_class(dict(enumerate(pixels.tolist()))), "sizes": dict(sizes)}

    return run


def decoding() -> Run:
    """Decode the images at a reduced scale, and the masks, with one thread per core."""
    prepare_process()
    from PIL import Image

    def decode(files: tuple[Path, Path]) -> None:
        with Image.open(files[0]) as image, Image.open(files[1]) as mask:
            image.draft(None, (SIDE, SIDE))
            image.load()
            mask.load()

    def run() -> dict[str, Any]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return {"images": len(list(threads.map(decode, _files())))}

    return run


def pillow() -> Run:
    """Decode each image and mask, and count sizes and classes."""
    import numpy as np
    from PIL import Image

    def run() -> dict[str, Any]:
        sizes: Counter[tuple[int, int]] = Counter()
        pixels = np.zeros(256, int)
        for image_file, mask_file in _files():
            with Image.open(image_file) as image, Image.open(mask_file) as mask:
                sizes[image.convert("RGB").size] += 1
                pixels += np.bincount(np.asarray(mask).ravel(), minlength=256)
        found = dict(enumerate(pixels.tolist()))
        found[VOID] += found.pop(UNLABELLED)
        return {"pixels": _by_class(found), "sizes": dict(sizes)}

    return run


def _by_class(pixels: Mapping[int, int]) -> dict[int, int]:
    return {value: count for value, count in pixels.items() if count}


def _files() -> list[tuple[Path, Path]]:
    return [
        (image, CAMVID / f"{split}annot" / f"{image.stem}.png")
        for split in SPLITS
        for image in sorted((CAMVID / split).iterdir())
    ]
