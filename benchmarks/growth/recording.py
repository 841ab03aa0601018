"""Cost of a run in MLflow, by number of runs in the store."""

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.growth.series import Series

EXPERIMENT = "growth"
CLASSES = 11
EPOCHS = 20
"""Epochs that each past run has logged."""


def opening(folder: str, size: int) -> Callable[[], None]:
    from studies import tracking

    past_runs(size)

    def run() -> None:
        with tracking.tracked_run(EXPERIMENT, "new", {"kind": "train"}):
            pass

    return run


def logging(folder: str, size: int) -> Callable[[], None]:
    from studies import tracking

    past_runs(size)
    opened = tracking.tracked_run(EXPERIMENT, "new", {"kind": "train"})
    opened.__enter__()
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        tracking.log_metrics(_figures(step), step)
        assert tracking.wait_until_sent()
        assert opened is not None

    return run


def finding(folder: str, size: int) -> Callable[[], None]:
    from studies import tracking
    from studies.runs.start import IDENTITY

    (identity, *_) = past_runs(size)

    def run() -> None:
        (found,) = tracking.runs_tagged(IDENTITY, identity)
        assert found.run_id == identity

    return run


def collecting(folder: str, size: int) -> Callable[[], None]:
    from studies.config import ReportConfig
    from studies.report.collect import collect

    past_runs(size)

    def run() -> None:
        assert len(collect(ReportConfig(experiment=EXPERIMENT)).training_runs) == size

    return run


PAST = "runs in the store"
SERIES = (
    Series("Opening and closing a run", PAST, "", opening, (10, 100, 1000), rounds=5),
    Series("Logging an epoch's metrics", PAST, "", logging, (10, 100, 1000), (10, 100), calls=20, rounds=5),
    Series("Finding one of the runs", PAST, "", finding, (10, 100, 1000), calls=10, rounds=5),
    Series("Collecting a report", PAST, "run", collecting, (10, 100, 1000), rounds=1, warmups=0),
)


def past_runs(count: int) -> list[str]:
    """Create a store with training runs in the current folder; returns their IDs.

    One is recorded as `train` records it. The others are its rows once more, and links to its artifacts.
    """
    import mlflow

    from studies import tracking
    from studies.config import TrainConfig
    from studies.runs.start import IDENTITY

    with tracking.tracked_run(EXPERIMENT, "past", {"kind": "train", IDENTITY: ""}) as first:
        tracking.log_config(TrainConfig())
        for epoch in range(1, EPOCHS + 1):
            tracking.log_metrics(_figures(epoch), epoch)
        tracking.log_json({"metrics": {}, "intervals": {}}, "reliability/val.json")
    artifacts = Path(mlflow.get_run(first).info.artifact_uri.removeprefix("file://"))
    copies = [uuid.uuid4().hex for _ in range(count - 1)]
    with sqlite3.connect(mlflow.get_tracking_uri().removeprefix("sqlite:///")) as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            if "run_uuid" not in columns:
                continue
            other = {"run_uuid": "?", "artifact_uri": f"replace(artifact_uri, '{first}', ?)"}
            chosen = [other.get(name, name) for name in columns]
            insert = f"INSERT INTO {table} SELECT {', '.join(chosen)} FROM {table} WHERE run_uuid = '{first}'"
            store.executemany(insert, [(copy,) * insert.count("?") for copy in copies])
        store.execute(f"UPDATE tags SET value = run_uuid WHERE key = '{IDENTITY}'")
    store.close()
    for copy in copies:
        place = artifacts.parents[1] / copy
        place.mkdir()
        (place / "artifacts").symlink_to(artifacts)
    return [first, *copies]


def _figures(epoch: int) -> dict[str, float]:
    """As many metrics as an epoch has."""
    from segmentation.metrics import METRICS

    names = [f"val/{name}" for name in METRICS] + [f"val/iou/class {index}" for index in range(CLASSES)]
    names += ["train/loss", "train/pixel_accuracy", "val/ece_low", "val/ece_high", "learning_rate", "epoch_seconds"]
    return dict.fromkeys(names, 1 / epoch)
