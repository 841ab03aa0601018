"""Cost of preparing and opening a data set with held-out images, by number of images."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.growth.series import Series

FILES, WIDTH, HEIGHT, CLASSES = 8, 64, 48, 11
"""Number of different images. Many names link to them, so that the cost per name dominates that of decoding."""
FRACTION = 0.15


def preparing(folder: str, size: int) -> Callable[[], None]:
    from segmentation.data import load_split

    data = _data(Path(folder) / "data", size)
    number = 0

    def run() -> None:
        nonlocal number
        number += 1
        config = _config(data, f"{folder}/cache {number}")
        assert len(load_split(config, "train")) + len(load_split(config, "held_out")) == size

    return run


def opening(folder: str, size: int) -> Callable[[], None]:
    from segmentation.data import load_split

    config = _config(_data(Path(folder) / "data", size), f"{folder}/cache")
    load_split(config, "train")

    def run() -> None:
        assert len(load_split(config, "train")) == size - round(FRACTION * size)

    return run


IMAGES = f"images of {WIDTH} × {HEIGHT}, {FRACTION:.0%} held out"
SERIES = (
    Series(
        "Preparing a data set", IMAGES, "image", preparing, (1000, 10_000, 100_000), (100, 300), rounds=1, warmups=0
    ),
    Series("Opening a prepared data set", IMAGES, "image", opening, (1000, 10_000, 100_000), (100, 300), rounds=3),
)


def _config(data: Path, cache_dir: str) -> Any:
    from studies.config import TrainConfig

    return TrainConfig(
        dataset="folder", data_dir=str(data), cache_dir=cache_dir, resize=32, crop=32, calibration_fraction=FRACTION
    )


def _data(root: Path, images: int) -> Path:
    """Create many names of a few files with hard links."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / "train" / part).mkdir(parents=True)
    for number in range(FILES):
        Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(root / f"images-{number}.jpg")
        Image.fromarray(random.integers(0, CLASSES, (HEIGHT, WIDTH), np.uint8)).save(root / f"masks-{number}.png")
    for number in range(images):
        for part, ending in (("images", "jpg"), ("masks", "png")):
            os.link(root / f"{part}-{number % FILES}.{ending}", root / "train" / part / f"{number:06d}.{ending}")
    (root / "classes.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    return root
