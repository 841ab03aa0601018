"""All metrics of a split and the scores of each image, compared with libraries that compute one to three metrics.

The logits are made from CamVid's masks, blurred and disturbed, so that most pixels are sure and those near boundaries
are not, as with a trained network: random ones would make every library slower, and ours most of all.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant

TITLE = "Scoring a split"
CLASSES, SIDE, BATCH, BINS, VOID = 11, 128, 16, 10, 255


def cases(quick: bool) -> list[Case]:
    """The validation split of CamVid, once and, in the full mode, ten times."""
    if not CAMVID.is_dir():
        raise SystemExit(f"scoring needs CamVid's masks in {CAMVID}")
    return [_case(images, forward=images <= 101) for images in ((32,) if quick else (101, 1010))]


def _case(images: int, forward: bool) -> Case:
    contestants = [
        Contestant("this project", "ours", prepare_ours, (images,)),
        Contestant("softmax alone", "limit", prepare_softmax, (images,)),
        Contestant("torchmetrics", "peer", prepare_torchmetrics, (images,)),
        Contestant("netcal, ECE only", "peer", prepare_netcal, (images,)),
    ]
    goals = [Goal("torchmetrics", 8), Goal("netcal, ECE only", 15)]
    if forward:
        for network in ("fcn_resnet50", "lraspp_mobilenet_v3_large"):
            contestants.append(Contestant(f"forward pass of {network}", "peer", prepare_forward, (network, images)))
        goals.append(Goal("forward pass of fcn_resnet50", 50))
    return Case(
        f"{images} images of {SIDE} x {SIDE} pixels, {CLASSES} classes", "pixels", images * SIDE * SIDE, contestants,
        same, goals, rounds=5 if forward else 3,
    )  # fmt: skip


def same(values: Mapping[str, Any]) -> str:
    """Check that accuracy, mean IoU and ECE equal those of the other libraries."""
    ours, torchmetrics, netcal = (values[name] for name in ("this project", "torchmetrics", "netcal, ECE only"))
    assert abs(ours["pixel_accuracy"] - torchmetrics["pixel_accuracy"]) < 1e-6, (ours, torchmetrics)
    assert abs(ours["mean_iou"] - torchmetrics["mean_iou"]) < 1e-5, (ours, torchmetrics)
    assert abs(ours["ece"] - netcal["ece"]) < 1e-5, (ours, netcal)
    apart = abs(ours["ece"] - torchmetrics["ece"])
    assert apart < 0.05, (ours, torchmetrics)
    return (
        f"Pixel accuracy within 1e-6 and mean IoU within 1e-5 of torchmetrics; ECE {ours['ece']:.5f}, within 1e-5 of "
        f"netcal, and {apart:.5f} from torchmetrics, whose sums are float32. This project computes "
        f"all {ours['figures']} metrics and the scores of each image."
    )


def prepare_ours(images: int) -> Callable[[], dict[str, float]]:
    """All scores of a training run, from logits to metrics."""
    from segmentation.system.runtime import prepare_process

    prepare_process()
    from segmentation.classes import Classes
    from segmentation.scoring.scores import Scores

    batches = _batches(images, channels_last=True)
    labels = Classes.named(*(f"class {index}" for index in range(CLASSES)))

    def run() -> dict[str, float]:
        scores = Scores(labels)
        for logits, masks in batches():
            scores.update(logits, masks)
        metrics = scores.metrics()
        return {name: metrics[name] for name in ("pixel_accuracy", "mean_iou", "ece")} | {"figures": len(metrics)}

    return run


def prepare_softmax(images: int) -> Callable[[], None]:
    """The softmax alone, which every implementation needs."""
    from segmentation.system.runtime import prepare_process

    prepare_process()
    batches = _batches(images)

    def run() -> None:
        for logits, _ in batches():
            logits.softmax(1)

    return run


def prepare_torchmetrics(images: int) -> Callable[[], dict[str, float]]:
    """Accuracy, IoU and calibration error."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

    batches = _batches(images)

    def run() -> dict[str, float]:
        metrics = {
            "pixel_accuracy": MulticlassAccuracy(CLASSES, average="micro", ignore_index=VOID),
            "mean_iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID),
            "ece": MulticlassCalibrationError(CLASSES, n_bins=BINS, ignore_index=VOID),
        }
        for logits, masks in batches():
            probabilities, labels = logits.softmax(1), masks.long()
            for metric in metrics.values():
                metric.update(probabilities, labels)
        return {name: float(metric.compute()) for name, metric in metrics.items()}

    return run


def prepare_netcal(images: int) -> Callable[[], dict[str, float]]:
    """The ECE from stored confidences."""
    import numpy as np
    from netcal.metrics import ECE

    batches = _batches(images)

    def run() -> dict[str, float]:
        confidences, rights = [], []
        for logits, masks in batches():
            confidence, label = logits.softmax(1).max(1)
            valid = masks != VOID
            confidences.append(confidence[valid].numpy())
            rights.append((label == masks)[valid].numpy())
        return {"ece": float(ECE(bins=BINS).measure(np.concatenate(confidences), np.concatenate(rights)))}

    return run


def prepare_forward(model: str, images: int) -> Callable[[], None]:
    """The model whose logits would be scored."""
    from segmentation.system.runtime import prepare_process

    prepare_process()
    import torch

    from segmentation.config import ModelConfig
    from segmentation.models.segmenter import build

    torch.set_num_threads(os.cpu_count() or 1)
    network = build(ModelConfig(model=model), CLASSES)  # type: ignore[arg-type]
    network.eval().to(memory_format=torch.channels_last)
    batch = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, images, BATCH):
            network(batch[: min(BATCH, images - start)])

    return run


def _batches(images: int, channels_last: bool = False) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Logits and masks, 101 different images at most, in a memory format that suits the contestant."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn import functional as F

    torch.set_num_threads(os.cpu_count() or 1)
    files = sorted(Path(CAMVID / "valannot").glob("*.png"))
    small = (Image.open(file).resize((SIDE, SIDE), Image.Resampling.NEAREST) for file in files[:images])
    masks = torch.stack([torch.from_numpy(np.array(mask)) for mask in small])
    masks[masks >= CLASSES] = VOID
    random = torch.Generator().manual_seed(0)
    made = []
    for part in masks.split(BATCH):
        one_hot = F.one_hot(torch.where(part == VOID, 0, part).long(), CLASSES).movedim(-1, 1).float()
        blurred = F.avg_pool2d(one_hot, 9, stride=1, padding=4)
        noise = F.interpolate(torch.randn(len(part), CLASSES, 16, 16, generator=random), SIDE, mode="bilinear")
        logits = 8 * blurred + 1.5 * noise
        made.append(logits.contiguous(memory_format=torch.channels_last) if channels_last else logits)
    together = list(zip(made, masks.split(BATCH), strict=True))

    def batches() -> Iterator[tuple[Any, Any]]:
        left = images
        for logits, labels in islice(cycle(together), images):
            if left <= 0:
                return
            yield logits[:left], labels[:left]
            left -= len(labels)

    return batches
