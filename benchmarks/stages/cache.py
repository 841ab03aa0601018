"""Building the cache, which only the first epoch does: decode, resize and crop all images; compared with Pillow.

This project also hashes the files, checks every value of the masks, syncs the arrays to disk and reads them back.
"""

import atexit
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant
from benchmarks.stages.training import use_all_cores
from segmentation.system.runtime import prepare_process
from studies.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np

TITLE = "First epoch: building the cache"
SIDE, UNLABELLED, VOID = 128, 11, 255
OURS, REDUCED = "this project", "JPEG decode at the reduced scale"
PILLOW, THREADS = "Pillow, one image at a time", "Pillow, one thread per core"
LEVELS = 0.01
"""Largest mean difference of images, in levels of 256; no pixel may differ by more than 1."""

Run = Callable[[], dict[str, Any]]


def cases(quick: bool) -> list[Case]:
    """The training split of CamVid, with files in the page cache."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage cache needs CamVid in {CAMVID}.")
    contestants = [
        Contestant(OURS, "ours", this_project),
        Contestant(REDUCED, "limit", reduced),
        Contestant(PILLOW, "peer", pillow, (False,)),
        Contestant(THREADS, "peer", pillow, (True,)),
    ]
    name = f"CamVid, {SIDE} x {SIDE}"
    return [Case(name, "images", len(_files()), contestants, _same, [Goal(PILLOW, 2)], rounds=7)]


def _same(returned: Mapping[str, Any]) -> str:
    import numpy as np

    ours, drafted = returned[OURS], returned[REDUCED]
    assert drafted["images"] == len(ours["images"]), f"{drafted['images']} images were decoded at the reduced scale"
    most, mean = 0, 0.0
    for name in (PILLOW, THREADS):
        theirs = returned[name]
        for part in ("images", "masks"):
            assert ours[part].shape == theirs[part].shape, f"{part} of {name}: {theirs[part].shape}"
        apart = np.abs(ours["images"].astype(int) - theirs["images"])
        most, mean = max(most, apart.max()), max(mean, apart.mean())
        masks = np.where(theirs["masks"] == UNLABELLED, VOID, theirs["masks"])
        assert np.array_equal(ours["masks"], masks), f"masks of {name} differ"
    assert most <= 1, f"pixels are up to {most} levels apart"
    assert mean <= LEVELS, f"images are {mean:.4f} levels apart"
    width, height = drafted["size"]
    return (
        f"All {len(ours['images'])} images of {ours['images'].shape[2]} x {ours['images'].shape[1]} pixels are "
        f"{'the same in every value' if not most else f'{mean:.4f} levels of 256 apart, at most {most}'} (tolerated: "
        f"{LEVELS}, at most 1), and all masks are the same. At the reduced scale images are decoded to {width} x "
        f"{height} pixels, and neither resized nor stored."
    )


def this_project() -> Run:
    """Open the split with an empty cache."""
    prepare_process()
    use_all_cores()
    import numpy as np

    from segmentation.data import load_split

    place, numbers = _own_place(), itertools.count()

    def run() -> dict[str, Any]:
        split = load_split(
            TrainConfig(dataset="camvid", data_dir=str(CAMVID), cache_dir=str(place / str(next(numbers)))), "train"
        )
        return {"images": np.array(split.images), "masks": np.array(split.masks)}

    return run


def reduced() -> Run:
    """Decode images at the smallest scale of the decoder that is at least the target size, and masks."""
    prepare_process()
    from PIL import Image

    def decode(files: tuple[Path, Path]) -> tuple[int, int]:
        with Image.open(files[0]) as image, Image.open(files[1]) as mask:
            image.draft("RGB", _size(image))
            image.load()
            mask.load()
            return image.size

    def run() -> dict[str, Any]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            sizes = list(threads.map(decode, _files()))
        return {"images": len(sizes), "size": sizes[0]}

    return run


def pillow(threads: bool) -> Run:
    """Decode, resize and crop each image, and save all as arrays."""
    import numpy as np
    from PIL import Image

    place = _own_place()

    def prepare(files: tuple[Path, Path]) -> tuple["np.ndarray", "np.ndarray"]:
        with Image.open(files[0]) as image, Image.open(files[1]) as mask:
            size = _size(image)
            left, top = (round((length - SIDE) / 2) for length in size)
            box = left, top, left + SIDE, top + SIDE
            image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR).crop(box)
            return np.asarray(image), np.asarray(mask.resize(size, Image.Resampling.NEAREST).crop(box))

    def run() -> dict[str, Any]:
        if threads:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                pairs = list(pool.map(prepare, _files()))
        else:
            pairs = list(map(prepare, _files()))
        found = {name: np.stack(part) for name, part in zip(("images", "masks"), zip(*pairs, strict=True), strict=True)}
        for name, array in found.items():
            np.save(place / f"{name}.npy", array)
        return found

    return run


def _size(image: Any) -> tuple[int, int]:
    """Width and height with the shorter side equal to `SIDE`."""
    shorter = min(image.size)
    width, height = (SIDE * length // shorter for length in image.size)
    return width, height


def _files() -> list[tuple[Path, Path]]:
    images = sorted((CAMVID / "train").iterdir())
    return [(image, CAMVID / "trainannot" / f"{image.stem}.png") for image in images]


def _own_place() -> Path:
    """A folder that is removed when the process ends."""
    place = tempfile.TemporaryDirectory(prefix="benchmark-")
    atexit.register(place.cleanup)
    return Path(place.name)
