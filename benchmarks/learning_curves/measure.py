"""Learning curves over the plane of learning rate and weight decay: what search_cost.py replays. Takes two hours.

    python benchmarks/learning_curves/measure.py path/to/camvid [RUN_ID]

trains the small network at every point of a lattice that holds the original report's grid, on CamVid at 64 x 64, one
process a core, and adds the points that camvid.csv does not have yet. What a grid study has trained already, in the run
of this ID, is taken from there: the figures are the same.
"""

import csv
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two processes of one thread are faster than one of two on pictures this small

import mlflow
import torch

from segmentation.data import load_split
from segmentation.errors import DivergedError
from segmentation.models.segmenter import build
from segmentation.training.loop import Data, train
from studies import tracking
from studies.config import TrainConfig

GRID = (0.01, 0.05, 0.001, 0.0001), (0.0, 0.01, 0.05, 0.001)
BETWEEN = (0.1, 0.003, 0.0225, 0.0003), (0.003, 0.0225, 0.0003)
METRICS = "val/loss", "val/pixel_accuracy", "val/mean_iou", "val/ece", "train/loss"
FILE = Path(__file__).with_name("camvid.csv")


def points() -> Iterator[tuple[float, float]]:
    """Learning rate and weight decay: lines between and around those of the grid, then the grid itself."""
    rates, decays = [*GRID[0], *BETWEEN[0]], [*GRID[1], *BETWEEN[1]]
    seen = set(itertools.product(*GRID))
    for known_rates, known_decays in ((6, 4), (6, 5), (7, 5), (7, 6), (8, 7)):
        for point in itertools.product(rates[:known_rates], decays[:known_decays]):
            if point not in seen:
                seen.add(point)
                yield point
    yield from itertools.product(*GRID)


def main(data_dir: str, study: str | None) -> None:
    """Train the missing points, as many at a time as there are cores."""
    if not FILE.exists():
        FILE.write_text(",".join(("learning_rate", "weight_decay", "epoch", *METRICS)) + "\n")
    for rows in [] if study is None else trained_in(study):
        add(rows)
    with multiprocessing.get_context("spawn").Pool() as pool:
        for rows in pool.imap_unordered(curve, [(data_dir, *point) for point in points() if point not in there()]):
            add(rows)


def there() -> set[tuple[float, float]]:
    """The points that the file has."""
    with FILE.open() as stream:
        return {(float(row["learning_rate"]), float(row["weight_decay"])) for row in csv.DictReader(stream)}


def add(rows: list[list[object]]) -> None:
    """Append a curve that the file does not have."""
    if tuple(rows[0][:2]) not in there():
        with FILE.open("a", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
        print(time.strftime("%H:%M:%S"), *rows[-1], flush=True)


def trained_in(study: str) -> Iterator[list[list[object]]]:
    """The curves of a study's finished trainings."""
    parent = mlflow.get_run(study)
    query = f"tags.`mlflow.parentRunId` = '{study}' AND attributes.status = 'FINISHED'"
    for run in mlflow.MlflowClient().search_runs([parent.info.experiment_id], query):
        point = [float(run.data.params[name]) for name in ("learning_rate", "weight_decay")]
        epochs = tracking.logged_epochs(run.info.run_id)
        yield [[*point, number, *(f"{epoch[name]:.6g}" for name in METRICS)] for number, epoch in enumerate(epochs, 1)]


def curve(task: tuple[str, float, float]) -> list[list[object]]:
    """One training; a row an epoch."""
    data_dir, rate, decay = task
    config = TrainConfig(
        dataset="camvid", data_dir=data_dir, resize=64, crop=64, model="lraspp_mobilenet_v3_large",
        batch_norm_momentum=0.1, epochs=20, batch_size=16, learning_rate=rate, weight_decay=decay,
    )  # fmt: skip
    data = Data(load_split(config, config.train_split), load_split(config, config.val_split))
    torch.manual_seed(config.seed)
    rows: list[list[object]] = []
    try:
        for epoch in train(build(config, len(data.train.labels)), data, config):
            metrics = epoch.metrics()
            rows.append([rate, decay, epoch.number, *(f"{metrics[name]:.6g}" for name in METRICS)])
    except DivergedError:
        rows.append([rate, decay, len(rows) + 1, *("nan" for _ in METRICS)])
    return rows


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
