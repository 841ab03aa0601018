"""How fast `predict` is beside its network alone: `python benchmarks/prediction.py [FOLDER]`.

In turns, in one process: the bare network over batches that are ready in memory; `predict`, from files to files, with
mask, confidence map, overlay and table at each picture's own size; and the loop of torchvision's documentation: decode,
transform, predict, argmax, save, a picture at a time, at the size the network sees. Times are medians over the rounds.
Where other programs share the machine, the time of all cores together says more than the clock.
The weights are random, but for batch norm, which has seen the pictures, so that masks are as ragged as real ones.
"""

import argparse
import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_image
from torchvision.transforms.v2 import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from segmentation import models
from segmentation.config import ModelConfig
from segmentation.labels import Labels
from segmentation.pictures import find_pictures, read_picture
from segmentation.predicted_folder import PredictedFolder
from segmentation.predicting import predict_pictures
from segmentation.prediction import Predictor

CAMVID = Path(__file__).parents[2] / "shared/data/camvid/train"
RESIZE, BATCH, CLASSES = 128, 16, 21
LABELS = Labels.named(*(f"class {index}" for index in range(CLASSES)))
CHECKED = 8
"""Pictures whose files are compared with the one-at-a-time predictor's."""


class Times(NamedTuple):
    """Median seconds a picture, on the clock or of all cores together."""

    alone: float
    predict: float
    plain: float


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[Times, Times]]:
    """Print the table; returns for each network the time on the clock and that of the cores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "pictures",
        type=Path,
        nargs="?",
        default=CAMVID,
        help="folder; its pictures are taken again until there are enough",
    )
    parser.add_argument("--images", type=int, default=32, help="pictures a round, four times as many for the small net")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--models", nargs="+", default=["fcn_resnet50", "lraspp_mobilenet_v3_large"])
    given = parser.parse_args(arguments)
    if not given.pictures.is_dir():
        print(f"There are no pictures in {given.pictures}: name a folder of them.")
        return {}
    torch.set_num_threads(given.threads)
    print(f"{given.threads} threads, {given.rounds} rounds, shorter side {RESIZE}, {CLASSES} classes, ms an image")
    print("| network | images | time | bare network | `predict` | its rate | plain loop | its rate |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    found = {}
    for name in given.models:
        images = given.images * (4 if name.startswith("lraspp") else 1)
        with tempfile.TemporaryDirectory() as temporary:
            folder = _folder(given.pictures, Path(temporary) / "pictures", images)
            found[name] = _measure(name, folder, Path(temporary), given.rounds)
        for what, times in zip(("clock", "cores"), found[name], strict=True):
            alone, predict, plain = (f"{1000 * seconds:.1f}" for seconds in times)
            rates = [f"{times.alone / other:.2f}" for other in times[1:]]
            print(
                f"| {name} | {images} | {what} | {alone} | {predict} | {rates[0]} | {plain} | {rates[1]} |", flush=True
            )
    return found


def _folder(source: Path, folder: Path, images: int) -> Path:
    folder.mkdir()
    for number, file in enumerate(islice(cycle(find_pictures(source, folder).values()), images)):
        (folder / f"{number:06d}{file.suffix}").symlink_to(file.resolve())
    return folder


def _measure(name: str, folder: Path, place: Path, rounds: int) -> tuple[Times, Times]:
    pictures = find_pictures(folder, place)
    network = _network(name, list(pictures.values()))
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)
    predictor = Predictor(fast, RESIZE, "bilinear")
    prepared = [predictor.prepare(read_picture(file)) for file in pictures.values()]
    batches = [
        torch.stack(prepared[start : start + BATCH]).contiguous(memory_format=torch.channels_last)
        for start in range(0, len(prepared), BATCH)
    ]

    @torch.inference_mode()
    def alone() -> None:
        for batch in batches:
            fast(batch)

    def predict() -> None:
        predicted = PredictedFolder(place / "predictions", LABELS)
        predict_pictures(predictor, pictures, predicted, BATCH)
        assert len(predicted.rows) == len(pictures)

    @torch.inference_mode()
    def plain() -> None:
        for number, file in enumerate(pictures.values()):
            image = F.resize(decode_image(str(file), mode="RGB"), [RESIZE])
            classes = network(image[None]).softmax(1)[0].argmax(0)
            Image.fromarray(classes.to(torch.uint8).numpy()).save(place / f"{number}.png")

    taken: dict[str, list[tuple[float, float]]] = {"alone": [], "predict": [], "plain": []}
    for _ in range(rounds):
        for kind, run in (("alone", alone), ("predict", predict), ("plain", plain)):
            taken[kind].append(_timed(run))
    _check(predictor, pictures, place / "predictions")
    medians = {kind: np.median(times, 0) / len(pictures) for kind, times in taken.items()}
    clock, cores = (Times(**{kind: float(median[which]) for kind, median in medians.items()}) for which in (0, 1))
    return clock, cores


def _timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and those of all cores."""
    clock, cores = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - cores


def _network(name: str, files: list[Path]) -> torch.nn.Module:
    torch.manual_seed(0)
    network = models.build(ModelConfig(model=name, batch_norm_momentum=None), CLASSES)  # type: ignore[arg-type]
    seen = torch.stack([F.pil_to_tensor(F.resize(read_picture(file), [RESIZE, RESIZE])) for file in files[:8]])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(seen)
        spread = network.eval()(seen).std((0, 2, 3)).mean()
        for part, weights in network.named_parameters():
            if any(last in part for last in models.LAST_LAYERS):
                weights *= 3 / spread
    return network


def _check(predictor: Predictor, pictures: dict[str, Path], output: Path) -> None:
    """Fail unless the files hold what the predictor says of one picture at a time, but for rounding."""
    for name, file in list(pictures.items())[:: max(1, len(pictures) // CHECKED)]:
        (expected,) = predictor([read_picture(file)])
        stem = Path(name).stem
        with Image.open(output / f"masks/{stem}.png") as mask, Image.open(output / f"confidence/{stem}.png") as grey:
            classes, confidence = np.array(mask), np.array(grey) / 255
        assert (classes != expected.classes).mean() < 1e-4, name
        assert abs(confidence - expected.confidence).max() < 0.5 / 255 + 1e-3, name


if __name__ == "__main__":
    main()
