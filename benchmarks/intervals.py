"""Time of 95 % intervals over images, beside scipy's bootstrap: `python benchmarks/intervals.py`.

10,000 resamples of 1,449 images (the validation split of Pascal VOC 2012) of 21 classes. Ours are the intervals of all
metrics at once; scipy's is that of the pixel accuracy alone. Median of several runs, taken in turn.
"""

import statistics
import time

import numpy as np
import torch
from scipy import stats

from segmentation.labels import Labels
from segmentation.metrics import METRICS
from segmentation.scoring import Scores

IMAGES, CLASSES, SIDE, REPEATS = 1449, 21, 32, 5


def main() -> None:
    scores = _scores()
    block = {name: scores.reliability.table.column(name).sum(1).astype(float) for name in ("correct", "count")}
    seconds: dict[str, list[float]] = {"ours": [], "scipy": []}
    for _ in range(REPEATS):
        started = time.perf_counter()
        ours = scores.intervals()
        seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = stats.bootstrap(
            (block["correct"], block["count"]), lambda right, count, axis: right.sum(axis) / count.sum(axis),
            paired=True, vectorized=True, n_resamples=10_000, method="percentile", batch=1000, rng=0,
        ).confidence_interval  # fmt: skip
        seconds["scipy"].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"ours, {len(METRICS)} metrics and the noise floor: {medians['ours']:.2f} s")
    print(f"scipy, 1 metric: {medians['scipy']:.2f} s, {medians['scipy'] / medians['ours']:.2f} times ours")
    print(f"pixel accuracy: ours {ours['pixel_accuracy']}, scipy [{theirs.low:.4f}, {theirs.high:.4f}]")


def _scores() -> Scores:
    torch.manual_seed(0)
    scores = Scores(Labels.named(*(f"class {index}" for index in range(CLASSES))))
    for start in range(0, IMAGES, 63):
        size = min(63, IMAGES - start)
        sharpness = 1 + 3 * torch.rand(size, 1, 1, 1)
        logits = sharpness * torch.randn(size, CLASSES, SIDE, SIDE)
        scores.update(logits, torch.distributions.Categorical(logits=0.7 * logits.movedim(1, -1)).sample())
    assert len(scores) == IMAGES
    assert np.isfinite(scores.metrics()["ece"])
    return scores


if __name__ == "__main__":
    main()
