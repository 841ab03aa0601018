"""One training epoch, from images to logged metrics, compared with bare steps and other training loops.

Every contestant starts from the same tensors and keeps training from round to round: a round is its next epoch. The
images that this project prepares once are prepared before the first round, which stage `cache` measures.
"""

import atexit
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant
from segmentation.system.runtime import prepare_process
from studies.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

TITLE = "One training epoch, end to end"
SIDE, BATCH, CLASSES, UNLABELLED, VOID = 128, 16, 11, 11, 255
FLIP, RATE, MOMENTUM = 0.5, 0.05, 0.9
OURS, BARE, LIGHTNING = "this project", "bare steps", "Lightning"
PLAIN = {workers: f"plain loop, {workers} workers" for workers in (0, 2)}
LOGITS, LOSSES = 1e-4, 0.15
"""Relative tolerances for logits before the first step and for training losses in the last round."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

Run = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Epoch:
    """Model and numbers of training and validation images."""

    model: str
    train: int
    val: int


def cases(quick: bool) -> list[Case]:
    """Both models, the larger one on fewer images; the small one alone in quick mode."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage training needs CamVid in {CAMVID}.")
    small = Epoch("lraspp_mobilenet_v3_large", *((48, 16) if quick else (367, 101)))
    limit, others = Goal(BARE, 0.97), [*(Goal(name, 1.3) for name in PLAIN.values()), Goal(LIGHTNING, 1.8)]
    large = [] if quick else [_case(Epoch("fcn_resnet50", 64, 16), [limit], rounds=3)]
    return [*large, _case(small, [limit, *others], rounds=5)]


def _case(work: Epoch, goals: Sequence[Goal], rounds: int) -> Case:
    return Case(
        f"{work.model}, {work.train} training and {work.val} validation images",
        "training images",
        work.train,
        [
            Contestant(OURS, "ours", this_project, (work,), QUIET),
            Contestant(BARE, "limit", bare_steps, (work,)),
            *(Contestant(name, "peer", plain_loop, (work, workers)) for workers, name in PLAIN.items()),
            Contestant(LIGHTNING, "peer", lightning, (work,), QUIET),
        ],
        _same,
        goals,
        rounds,
    )


def _same(returned: Mapping[str, Any]) -> str:
    import numpy as np

    ours = returned[OURS]
    scale = np.abs(ours["logits"]).max()
    apart = max(np.abs(each["logits"] - ours["logits"]).max() / scale for each in returned.values())
    assert apart <= LOGITS, f"logits before the first step are up to {apart:.1e} of their largest apart"
    peers = {name: each for name, each in returned.items() if name != BARE}
    for counted in ("training images", "validation images", "validation pixels"):
        found = {name: each[counted] for name, each in peers.items()}
        assert len(set(found.values())) == 1, f"{counted} differ: {found}"
    losses = {name: each["loss"] for name, each in peers.items()}
    assert np.isfinite(list(losses.values())).all(), losses
    spread = max(losses.values()) / min(losses.values()) - 1
    assert spread <= LOSSES, f"training losses differ by more than {LOSSES:.0%}: {losses}"
    return (
        f"Before the first step all give the same logits on a validation batch, to {apart:.0e} of the largest "
        f"(tolerated: {LOGITS:.0e}). All but the bare steps count {ours['training images']} training images, "
        f"{ours['validation images']} validation images and {ours['validation pixels']} of their non-void pixels. "
        f"Order and flips differ, so the results do, too: training losses of the last round are within {spread:.0%} of "
        f"each other (tolerated: {LOSSES:.0%}). The bare steps neither flip, nor score, nor record."
    )


def this_project(work: Epoch) -> Run:
    """An epoch of `train`: train, score, log to MLflow, save checkpoints, draw plots every tenth epoch."""
    prepare_process()
    use_all_cores()
    place = _own_place()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / 'mlflow.db'}"

    from segmentation.devices import resolve_device
    from segmentation.training import checkpoints
    from segmentation.training.loop import train
    from studies import tracking
    from studies.runs.start import load_data, starting_model
    from studies.runs.training import log_epoch_plots

    config = config_of(work, linked(work, place), place)
    data, device = load_data(config), resolve_device(config.device)
    network, _ = starting_model(config, data.train)
    first, _ = data.val.gather(_first(work))
    logits = _logits(network, first)
    stack = ExitStack()
    run_id = stack.enter_context(tracking.tracked_run(config.experiment, "benchmark", {}))
    atexit.register(stack.close)
    tracking.log_config(config)
    epochs = train(network, data, config)
    writer = checkpoints.Writer(Path(config.checkpoint_dir) / run_id)

    def run() -> dict[str, Any]:
        epoch = next(epochs)
        tracking.log_metrics(epoch.metrics(), step=epoch.number)
        writer.save(epoch.checkpoint, epoch.is_best)
        if epoch.number % config.plot_every == 0 or epoch.number in (1, config.epochs):
            log_epoch_plots(network, epoch, data.val, config, device)
        pixels = int(epoch.val.reliability.bins().count.sum())
        return _returned(logits, epoch.train_loss, len(data.train), len(epoch.val), pixels)

    return run


def bare_steps(work: Epoch) -> Run:
    """Steps on prepared batches in memory, then forward passes on the validation images."""
    prepare_process()
    use_all_cores()
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    last = torch.channels_last
    train, val = (
        [(images.contiguous(memory_format=last), masks) for images, masks in DataLoader(pictures, BATCH)]
        for pictures in (Pictures(_files("train", work.train)), Pictures(_files("val", work.val)))
    )
    network = _network(work).to(memory_format=last)
    logits = _logits(network, val[0][0][: len(_first(work))])
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM)

    def run() -> dict[str, Any]:
        network.train()
        for images, masks in train:
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(network(images)["out"], masks, ignore_index=VOID).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            for images, _ in val:
                network(images)
        return {"logits": logits}

    return run


def plain_loop(work: Epoch, workers: int) -> Run:
    """The loop of torchvision's reference scripts for segmentation: images are decoded each epoch, IoU is counted."""
    use_all_cores()
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    network = _network(work)
    train, val = Pictures(_files("train", work.train), FLIP), Pictures(_files("val", work.val))
    logits = _logits(network, torch.stack([val[index][0] for index in _first(work)]))
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM)
    kept = {"num_workers": workers, "persistent_workers": workers > 0}
    train_batches, val_batches = DataLoader(train, BATCH, shuffle=True, **kept), DataLoader(val, BATCH, **kept)

    def run() -> dict[str, Any]:
        network.train()
        losses, trained = 0.0, 0
        for images, masks in train_batches:
            loss = cross_entropy(network(images)["out"], masks, ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(images)
            trained += len(images)
        network.eval()
        confusion, scored = torch.zeros(CLASSES, CLASSES, dtype=torch.int64), 0
        with torch.inference_mode():
            for images, masks in val_batches:
                truth, predicted = masks.flatten(), network(images)["out"].argmax(1).flatten()
                valid = truth != VOID
                cells = CLASSES * truth[valid] + predicted[valid]
                confusion += torch.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
                scored += len(images)
        right = confusion.diag().float()
        (right / (confusion.sum(0) + confusion.sum(1) - right)).nanmean().item()
        return _returned(logits, losses / trained, trained, scored, int(confusion.sum()))

    return run


def lightning(work: Epoch) -> Run:
    """Lightning's Trainer with torchmetrics, its MLFlowLogger and its default checkpoints.

    `fit` is called once an epoch, which costs 0.03 s more than to let it go on.
    """
    use_all_cores()
    place = _own_place()
    import logging
    import warnings

    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import MLFlowLogger
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network(work)
            self.optimizer = torch.optim.SGD(self.network.parameters(), RATE, MOMENTUM)
            self.figures = MetricCollection({
                "val/pixel_accuracy": MulticlassAccuracy(CLASSES, average="micro", ignore_index=VOID),
                "val/mean_iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID),
                "val/ece": MulticlassCalibrationError(CLASSES, n_bins=10, norm="l1", ignore_index=VOID),
            })  # fmt: skip
            self.trained = self.scored = self.pixels = 0

        def training_step(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
            images, masks = batch
            loss = cross_entropy(self.network(images)["out"], masks, ignore_index=VOID)
            self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
            self.trained += len(images)
            return loss

        def validation_step(self, batch: Sequence[torch.Tensor]) -> None:
            images, masks = batch
            logits = self.network(images)["out"]
            self.log("val/loss", cross_entropy(logits, masks, ignore_index=VOID), batch_size=len(images))
            self.figures.update(logits, masks)
            self.log_dict(self.figures)
            self.scored += len(images)

        def on_validation_epoch_end(self) -> None:
            self.pixels = int(self.figures["val/mean_iou"].confmat.sum())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer  # the same one each time, so that it goes on from round to round

    torch.manual_seed(0)
    module = Module()
    train, val = Pictures(_files("train", work.train), FLIP), Pictures(_files("val", work.val))
    logits = _logits(module.network, torch.stack([val[index][0] for index in _first(work)]))
    loaders = DataLoader(train, BATCH, shuffle=True), DataLoader(val, BATCH)
    trainer = Trainer(
        max_epochs=0,
        accelerator="cpu",
        logger=MLFlowLogger("benchmark", tracking_uri=f"sqlite:///{place / 'mlflow.db'}"),
        default_root_dir=place,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, *loaders)  # no epoch: what is set up once

    def run() -> dict[str, Any]:
        module.trained = module.scored = 0
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, *loaders)
        loss = float(trainer.callback_metrics["train/loss"])
        return _returned(logits, loss, module.trained, module.scored, module.pixels)

    return run


class Pictures:
    """A `Dataset` that reads its files on each access: images `(3, H, W)` in [-1, 1], masks `(H, W)` int64."""

    def __init__(self, files: Sequence[tuple[Path, Path]], flip: float = 0.0) -> None:
        self.files = files
        self.flip = flip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        import numpy as np
        import torch
        from PIL import Image
        from torchvision.transforms.v2 import InterpolationMode, functional

        with Image.open(self.files[index][0]) as image, Image.open(self.files[index][1]) as mask:
            image = functional.resize(image.convert("RGB"), [SIDE])
            mask = functional.resize(mask, [SIDE], InterpolationMode.NEAREST)
        image, mask = functional.center_crop(image, [SIDE]), functional.center_crop(mask, [SIDE])
        if random.random() < self.flip:
            image, mask = functional.horizontal_flip(image), functional.horizontal_flip(mask)
        scaled = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
        classes = torch.as_tensor(np.array(mask), dtype=torch.int64)
        classes[classes == UNLABELLED] = VOID
        return functional.normalize(scaled, [0.5] * 3, [0.5] * 3), classes


def _returned(logits: "np.ndarray", loss: float, trained: int, scored: int, pixels: int) -> dict[str, Any]:
    counted = {"training images": trained, "validation images": scored, "validation pixels": pixels}
    return {"logits": logits, "loss": loss} | counted


def _files(split: str, count: int) -> list[tuple[Path, Path]]:
    """Images and masks, spread evenly over a split of CamVid."""
    images = sorted((CAMVID / split).iterdir())
    chosen = [images[place * len(images) // count] for place in range(count)]
    return [(image, CAMVID / f"{split}annot" / f"{image.stem}.png") for image in chosen]


def linked(work: Epoch, place: Path) -> Path:
    """A folder in the layout of CamVid that holds only these files."""
    for split, count in (("train", work.train), ("val", work.val)):
        for folder, files in zip((split, f"{split}annot"), zip(*_files(split, count), strict=True), strict=True):
            (place / "camvid" / folder).mkdir(parents=True)
            for file in files:
                (place / "camvid" / folder / file.name).symlink_to(file)
    return place / "camvid"


def config_of(work: Epoch, data: Path, place: Path) -> TrainConfig:
    return TrainConfig(
        dataset="camvid",
        data_dir=str(data),
        cache_dir=str(place / "cache"),
        checkpoint_dir=str(place / "checkpoints"),
        resize=SIDE,
        crop=SIDE,
        model=work.model,
        batch_size=BATCH,
        learning_rate=RATE,
        momentum=MOMENTUM,
        flip=FLIP,
        precision="float32",
        device="cpu",
        batch_norm_momentum=0.1,  # mobilenet's own is so slow that the first epochs' scores are of no use
    )


def _network(work: Epoch) -> "torch.nn.Module":
    """torchvision's model with the initial weights of this project."""
    import torch

    from segmentation.models.segmenter import build

    config = config_of(work, CAMVID, CAMVID)
    torch.manual_seed(config.seed)
    return build(config, CLASSES).network


def _first(work: Epoch) -> "np.ndarray":
    import numpy as np

    return np.arange(min(8, work.val))


def _logits(network: "torch.nn.Module", images: "torch.Tensor") -> "np.ndarray":
    """Logits of every eighth row and column, before the first step."""
    import torch

    network.eval()
    with torch.inference_mode():
        outputs = network(images)
    network.train()
    return (outputs["out"] if isinstance(outputs, dict) else outputs)[..., ::8, ::8].numpy().copy()


def use_all_cores() -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)


def _own_place() -> Path:
    """A temporary folder, removed when the process ends."""
    place = tempfile.TemporaryDirectory(prefix="benchmark-")
    atexit.register(place.cleanup)
    os.chdir(place.name)
    return Path(place.name)
