"""Training: `train` yields an `Epoch` after each pass; who iterates may log it, keep it, or stop."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from segmentation import optimizers
from segmentation.batches import in_order, index_batches
from segmentation.checkpoints import Checkpoint
from segmentation.config import TrainConfig
from segmentation.counting import count_right
from segmentation.datasets import Split
from segmentation.devices import autocast, resolve_device, resolve_precision
from segmentation.errors import DivergedError, InputError
from segmentation.labels import VOID
from segmentation.losses import cross_entropy_sum
from segmentation.metrics import is_better
from segmentation.models import Segmenter
from segmentation.progress import progress
from segmentation.resampling import Interval
from segmentation.scoring import Scores, score
from segmentation.transforms import Augmentation

RESAMPLES_OF_AN_EPOCH = 1000


@dataclass(frozen=True)
class Data:
    """What to learn from and what to be scored on."""

    train: Split
    val: Split


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images brought."""

    number: int
    """Counted from 1."""
    train_loss: float
    """Cross-entropy in nats, mean over the epoch's non-void pixels, each seen as the weights stood then."""
    train_pixel_accuracy: float
    """Share of those pixels whose most probable class was right."""
    val: Scores
    """Measured on the validation split after the pass."""
    val_metrics: dict[str, float]
    """`val.metrics()`, worked out once."""
    val_ece: Interval
    """95 % interval over images of the ECE on the validation split."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Whole epoch, validation included."""
    images_per_second: float
    """Training images, without validation."""
    is_best: bool
    """Whether `config.monitor` was never better."""
    checkpoint: Checkpoint
    """The state after the epoch, to be saved before the next one begins."""

    def metrics(self) -> dict[str, float]:
        """Every figure by the name it is logged under."""
        return {
            "train/loss": self.train_loss,
            "train/pixel_accuracy": self.train_pixel_accuracy,
            **{f"val/{name}": value for name, value in self.val_metrics.items()},
            "val/ece_low": self.val_ece.low,
            "val/ece_high": self.val_ece.high,
            **{f"val/iou/{name}": value for name, value in self.val.class_iou().items()},
            "learning_rate": self.learning_rate,
            "epoch_seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


def train(network: Segmenter, data: Data, config: TrainConfig, start: Checkpoint | None = None) -> Iterator[Epoch]:
    """Train a network and yield after every epoch.

    Args:
        network: trained in place, and moved to `config.device`.
        data: two splits with the same classes.
        config: all of its optimisation and augmentation fields, and `monitor` and `patience`.
        start: the state after an earlier epoch of the same training; it goes on as if it had never stopped.

    Raises:
        DivergedError: the loss is no longer finite. The weights are those before the step that found it.
    """
    device = resolve_device(config.device)
    context = autocast(device, resolve_precision(config.precision, device))
    network.to(device).to(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
    optimizer = optimizers.build_optimizer(network, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    finished_epochs, best_epoch, best_value = 0, 0, math.nan
    if start is not None:
        finished_epochs, best_epoch, best_value = start.epoch, start.best_epoch, start.best_value
        network.load_state_dict(start.network)
        optimizer.load_state_dict(start.optimizer)
        scaler.load_state_dict(start.scaler)

    for number in range(finished_epochs + 1, config.epochs + 1):
        if config.patience is not None and best_epoch and number - 1 - best_epoch >= config.patience:
            return
        started = time.perf_counter()
        train_loss, train_accuracy, rate = _one_pass(network, optimizer, scaler, data.train, config, number, context)
        trained = time.perf_counter()
        val_batches = in_order(data.val, config.batch_size, device)
        val = score(network, val_batches, data.val.labels, context, config.boundary_width)
        metrics = val.metrics()
        if not math.isfinite(metrics["loss"]):
            raise DivergedError(
                f"the validation loss became {metrics['loss']} after epoch {number} (learning_rate={rate:g}); try a "
                f"smaller learning_rate, or a larger batch_size or crop (batch norm needs more than a few values)"
            )
        value = metrics[config.monitor.removeprefix("val/")]
        is_best = number == 1 or is_better(config.monitor, value, best_value)
        if is_best:
            best_epoch, best_value = number, value
        checkpoint = Checkpoint(
            config=asdict(config),
            class_names=list(data.train.labels.names),
            palette=[list(colour) for colour in data.train.labels.palette],
            fingerprint=data.train.fingerprint,
            epoch=number,
            best_epoch=best_epoch,
            best_value=best_value,
            network=network.state_dict(),
            optimizer=optimizer.state_dict(),
            scaler=scaler.state_dict(),
        )
        finished = time.perf_counter()
        images_per_second = len(data.train) / (trained - started)
        yield Epoch(
            number,
            train_loss,
            train_accuracy,
            val,
            metrics,
            val.ece_interval(RESAMPLES_OF_AN_EPOCH),
            rate,
            finished - started,
            images_per_second,
            is_best,
            checkpoint,
        )


def _one_pass(
    network: Segmenter,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    split: Split,
    config: TrainConfig,
    number: int,
    context: AbstractContextManager[object],
) -> tuple[float, float, float]:
    """Train on every image once; returns mean loss, pixel accuracy and the last learning rate.

    All that is random follows from the seed and the epoch's number, whatever happened before.
    """
    order_seed, torch_seed = np.random.SeedSequence([config.seed, number]).generate_state(2)
    order = np.random.default_rng(order_seed).permutation(len(split))
    torch.manual_seed(int(torch_seed))
    random = torch.Generator().manual_seed(int(torch_seed))
    augment = Augmentation(config)

    frozen = number <= config.freeze_backbone
    network.train()
    network.backbone.train(not frozen)
    optimizers.trainable(network.backbone, not frozen)
    if config.freeze_batch_norm:
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                optimizers.trainable(module, False)

    batches = index_batches(order, config.batch_size)
    loss_sum, correct, pixels, rate = 0.0, 0, 0, 0.0
    with progress(f"epoch {number}/{config.epochs}", len(split)) as bar:
        for step, indices in enumerate(batches):
            images, masks = augment(*split.gather(indices), random)
            rate = optimizers.learning_rate(config, (number - 1) * len(batches) + step, len(batches))
            optimizers.set_learning_rate(optimizer, rate)
            try:
                batch_loss, batch_correct, batch_pixels = _one_step(
                    network, optimizer, scaler, images, masks, config, context
                )
            except FloatingPointError as error:
                raise DivergedError(
                    f"the loss became {error} in epoch {number}, step {step + 1} of {len(batches)} "
                    f"(learning_rate={rate:g}); try a smaller learning_rate or warmup_epochs=1"
                ) from None
            loss_sum, correct, pixels = loss_sum + batch_loss, correct + batch_correct, pixels + batch_pixels
            bar.update(len(indices))
    return loss_sum / pixels if pixels else math.nan, correct / pixels if pixels else math.nan, rate


def _one_step(
    network: Segmenter,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    images: torch.Tensor,
    masks: torch.Tensor,
    config: TrainConfig,
    context: AbstractContextManager[object],
) -> tuple[float, int, int]:
    """One optimiser step on images `(B, 3, H, W)` and masks `(B, H, W)`; returns loss sum, right pixels and pixels.

    The loss is the mean over the whole batch's non-void pixels, however many forward passes it takes.
    """
    device = network.mean.device
    pixels = int((masks != VOID).sum())
    if pixels == 0:
        return 0.0, 0, 0
    optimizer.zero_grad(set_to_none=True)
    loss_sum, correct = 0.0, 0
    for part in index_batches(np.arange(len(images)), config.micro_batch or len(images)):
        part_images = images[part].to(device, non_blocking=True)
        part_masks = masks[part].to(device, non_blocking=True)
        with context:
            outputs = _training_outputs(network, part_images)
        loss = main_loss = cross_entropy_sum(outputs["out"], part_masks)
        if config.auxiliary_loss:
            loss = loss + config.auxiliary_loss * cross_entropy_sum(outputs["aux"], part_masks)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(loss.item())
        scaler.scale(loss / pixels).backward()
        loss_sum += main_loss.item()
        correct += count_right(outputs["out"], part_masks)
    scaler.step(optimizer)
    scaler.update()
    return loss_sum, correct, pixels


def _training_outputs(network: Segmenter, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The forward pass of training; what the user can mend about it is told as such."""
    try:
        return network.outputs(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch norm cannot learn from {len(images)} image(s) of {images.shape[3]} x {images.shape[2]} pixels at a "
            f"time in this network; make batch_size and micro_batch at least 2, or the pictures larger"
        ) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            f"there is not enough memory for {len(images)} images of {images.shape[3]} x {images.shape[2]} pixels at a "
            f"time; set micro_batch to a smaller number, which keeps the batch_size that counts"
        ) from error
