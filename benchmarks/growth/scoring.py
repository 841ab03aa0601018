"""Cost of all scores of a split and their intervals, without a model."""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.growth.series import Series

BATCH, CLASSES, SIDE = 16, 11, 64
FEW = 101
"""Images of CamVid's validation split."""


def images(folder: str, size: int) -> Callable[[], None]:
    return _scoring(size, CLASSES)


def classes(folder: str, size: int) -> Callable[[], None]:
    return _scoring(FEW, size)


def intervals(folder: str, size: int) -> Callable[[], None]:
    scores = _scored(size, *_batch(CLASSES, 16))

    def run() -> None:
        scores.resampled()

    return run


SERIES = (
    Series("Scoring logits", "images of 64 × 64", "image", images, (101, 1010, 10100), rounds=2),
    Series("Scoring logits", "classes, 101 images of 64 × 64", "class", classes, (11, 21, 150)),
    Series("Intervals of all metrics", "images", "image", intervals, (101, 1010, 10100)),
)


def _scoring(images: int, classes: int) -> Callable[[], None]:
    batch = _batch(classes, SIDE)

    def run() -> None:
        _scored(images, *batch)

    return run


def _batch(classes: int, side: int) -> tuple[Any, Any]:
    """Random logits and masks."""
    from segmentation.system.runtime import prepare_process

    prepare_process()
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    logits = 3 * torch.randn(BATCH, classes, side, side)
    return logits, torch.randint(0, classes, (BATCH, side, side), dtype=torch.uint8)


def _scored(images: int, logits: Any, masks: Any) -> Any:
    """Scores of many images: those of one batch, repeated."""
    from segmentation.classes import Classes
    from segmentation.scoring.scores import Scores

    scores = Scores(Classes.named(*(f"class {index}" for index in range(logits.shape[1]))))
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        scores.update(logits[:count], masks[:count])
    return scores
