"""Cost of one training epoch with validation, scoring and the ECE interval, by size of its data."""

import os
from collections.abc import Callable
from itertools import cycle, islice
from math import isqrt
from pathlib import Path

from benchmarks.case import CAMVID
from benchmarks.growth.series import Series

SIDE, CLASSES = 64, 11
VALIDATION = 4
"""Training images for each validation image."""
BLOCK = 24
"""Side of a square of one class, in pixels, in images of 480 x 360."""


def images(folder: str, size: int) -> Callable[[], None]:
    return _epoch(folder, size, SIDE, CLASSES)


def pixels(folder: str, size: int) -> Callable[[], None]:
    return _epoch(folder, 32, isqrt(size), CLASSES, batch_size=8)


def classes(folder: str, size: int) -> Callable[[], None]:
    return _epoch(folder, 32, 128, size)


EPOCH = "Training epoch, LR-ASPP"
SERIES = (
    Series(EPOCH, "images of 64 × 64", "image", images, (32, 320, 3200), (16, 48), rounds=2),
    Series(EPOCH, "pixels an image, 32 images", "pixel", pixels, (64**2, 128**2, 256**2)),
    Series(EPOCH, "classes, 32 images of 128 × 128", "class", classes, (11, 21, 150)),
)


def _epoch(folder: str, images: int, side: int, classes: int, batch_size: int = 16) -> Callable[[], None]:
    from segmentation.system.runtime import prepare_process

    prepare_process()
    import torch

    from segmentation.data import load_split
    from segmentation.models.segmenter import build
    from segmentation.training.loop import Data, train
    from studies.config import TrainConfig

    torch.set_num_threads(os.cpu_count() or 1)
    root = _data(Path(folder) / "data", images, classes)
    config = TrainConfig(
        dataset="folder", data_dir=str(root), cache_dir=f"{folder}/cache", model="lraspp_mobilenet_v3_large",
        resize=side, crop=side, batch_size=batch_size, epochs=1000,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build(config, classes)
    data = Data(load_split(config, "train"), load_split(config, "val"))
    epochs = train(network, data, config)

    def run() -> None:
        next(epochs)

    return run


def _data(root: Path, images: int, classes: int) -> Path:
    """Links to CamVid's images, repeated, with masks of squares of random classes."""
    import numpy as np
    from PIL import Image

    if not CAMVID.is_dir():
        raise SystemExit(f"CamVid is not at {CAMVID}")
    pictures = sorted((CAMVID / "train").iterdir())
    random = np.random.default_rng(0)
    masks = root / "made"
    masks.mkdir(parents=True)
    for picture in pictures[:images]:
        with Image.open(picture) as image:
            width, height = image.size
        squares = random.integers(0, classes, (-(-height // BLOCK), -(-width // BLOCK)), np.uint8)
        mask = np.kron(squares, np.ones((BLOCK, BLOCK), np.uint8))[:height, :width]
        Image.fromarray(mask).save(masks / f"{picture.stem}.png")
    for split, count in (("train", images), ("val", images // VALIDATION)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number, picture in enumerate(islice(cycle(pictures[:images]), count)):
            (root / split / "images" / f"{number:06d}{picture.suffix}").symlink_to(picture.resolve())
            (root / split / "masks" / f"{number:06d}.png").symlink_to(masks / f"{picture.stem}.png")
    (root / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return root
