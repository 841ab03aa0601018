"""Cost of a comparison of runs, with tables and plots, by number of runs."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout

from benchmarks.growth.scoring import CLASSES, FEW
from benchmarks.growth.series import Series

EXPERIMENT, SIDE = "growth", 16


def comparing(folder: str, size: int) -> Callable[[], None]:
    import mlflow

    from studies.scores.comparison import check_protocols, compare, contestants_of, seed_spreads, shared_images
    from studies.scores.stored import StoredScores

    runs = [mlflow.get_run(run_id) for run_id in _scored_runs(size)]

    def run() -> None:
        stored = [StoredScores(each, "val") for each in runs]
        check_protocols(stored)
        contestants = list(contestants_of(stored, shared_images(stored)))
        pairs, spreads = compare(contestants), seed_spreads(contestants)
        assert [pair.sentence(spreads) for pair in pairs]

    return run


def recording(folder: str, size: int) -> Callable[[], None]:
    import mlflow

    from studies import tracking
    from studies.runs.comparison import record_comparison
    from studies.scores.stored import StoredScores

    runs = [mlflow.get_run(run_id) for run_id in _scored_runs(size)]

    def run() -> None:
        with tracking.tracked_run(EXPERIMENT, "compare", {"kind": "compare"}), redirect_stdout(io.StringIO()):
            record_comparison([StoredScores(each, "val") for each in runs], examples=0)

    return run


def _scored_runs(count: int) -> Iterator[str]:
    """Create runs that scored the same images; yields their IDs."""
    import numpy as np
    import torch

    from segmentation.classes import Classes
    from segmentation.data import Split
    from segmentation.scoring.scores import Scores
    from studies import tracking
    from studies.config import TrainConfig
    from studies.models.stored import StoredModel
    from studies.scores.recording import bins_record, protocol

    torch.manual_seed(0)
    labels = Classes.named(*(f"class {index}" for index in range(CLASSES)))
    names = tuple(f"image {number}" for number in range(FEW))
    masks = torch.randint(0, CLASSES, (FEW, SIDE, SIDE), dtype=torch.uint8)
    split = Split(
        "folder", "val", "", labels, names, np.zeros((FEW, SIDE, SIDE, 3), np.uint8), masks.numpy(), "", names
    )
    for seed in range(count):
        config = TrainConfig(seed=seed, learning_rate=0.01 * (1 + seed // 2))  # two seeds of each setting
        scores = Scores(labels)
        scores.update(3 * torch.randn(FEW, CLASSES, SIDE, SIDE), masks)
        with tracking.tracked_run(EXPERIMENT, f"run {seed}", {"kind": "train"}) as run_id:
            origin = StoredModel(config, labels, {}, 1, run_id, None).origin()
            record = bins_record(scores, protocol(config, split, scores))
            tracking.log_json(record | {"origin": origin, "palette": labels.palette}, "reliability/val.json")
            with tracking.artifact_file("reliability/val_histograms.npz") as file:
                scores.save(file, {"name": np.array(names), "digest": np.array(names)})
        yield run_id


SERIES = (
    Series("Comparing runs", "runs of 101 images", "run", comparing, (2, 4, 8, 16), rounds=2),
    Series("Recording a comparison", "runs of 101 images", "run", recording, (2, 4, 8, 16), rounds=1),
)
