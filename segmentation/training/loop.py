"""The training loop: `train` trains a model and yields an `Epoch` after each pass over the training split.

The caller may log an epoch, save its checkpoint, or stop iterating. With several processes, rank 0 runs `train` and the
other ranks run `train_rank`; both run the same loop, and sums over the shards of all ranks equal those of one process.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass

import numpy as np
import torch

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.data import Split, load_splits
from segmentation.data.batches import equal_batches, in_order, index_batches
from segmentation.data.training_images import TrainingImages
from segmentation.devices import copied_to_host, deterministic, fastest_convolutions, resolve_device, to_device
from segmentation.errors import DivergedError, InputError, listed
from segmentation.metrics import is_better
from segmentation.models.segmenter import Segmenter, build
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.evaluate import at_size_of, evaluating, score
from segmentation.scoring.scores import Scores
from segmentation.system.progress import progress
from segmentation.training import batch_norm, optimizers
from segmentation.training.augmentation import Augmentation
from segmentation.training.averaging import AveragedWeights
from segmentation.training.checkpoints import Checkpoint
from segmentation.training.class_weights import class_weights
from segmentation.training.compilation import Compilation, obstacle, pays
from segmentation.training.launch import all_ranks
from segmentation.training.prefetch import Batch, on_device
from segmentation.training.process_group import ProcessGroup
from segmentation.training.step import TrainingStep

RESAMPLES_PER_EPOCH = 1000


@dataclass(frozen=True)
class Data:
    """Training split and validation split."""

    train: Split
    val: Split

    def __post_init__(self) -> None:
        if self.train.labels.names != self.val.labels.names:
            different = sorted({*self.train.labels.names} ^ {*self.val.labels.names}) or [*self.val.labels.names]
            raise InputError(
                f"{self.train.name} and {self.val.name} of {self.train.location} have other classes, or the same in "
                f"another order: {listed(different)}; describe the same classes for both"
            )


@dataclass(frozen=True)
class Epoch:
    """Result of one pass over the training split."""

    number: int
    """Counted from 1."""
    train_loss: float
    """Cross-entropy in nats, mean over the non-void pixels; each batch is measured before its own update."""
    train_pixel_accuracy: float
    """Fraction of these pixels whose most probable class is correct."""
    val: Scores
    """Scores on the validation split after the pass."""
    val_metrics: dict[str, float]
    """`val.metrics()`, computed once."""
    val_ece: Interval
    """95 % interval of the ECE on the validation split, over images."""
    learning_rate: float
    """Learning rate of the last step."""
    seconds: float
    """Duration of the epoch, validation included."""
    images_per_second: float
    """Training images per second, without validation."""
    compile_seconds: float
    """Seconds of this epoch in which the network was compiled; 0 with `compile=false`."""
    is_best: bool
    """Whether `config.monitor` is better than in all earlier epochs, or equal to the best one with a lower loss."""
    checkpoint: Checkpoint
    """State after the epoch; save it before the next epoch starts."""

    def metrics(self) -> dict[str, float]:
        """Every metric by the name under which it is logged."""
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


def train(model: Segmenter, data: Data, config: TrainingConfig, start: Checkpoint | None = None) -> Generator[Epoch]:
    """Train a model and yield after every epoch.

    With several processes, this one is rank 0. It starts the other ranks, or connects to those of `torchrun`; they end
    when the generator ends or is closed.

    Args:
        model: trained in place and moved to `config.device`.
        data: two splits with the same classes.
        config: fields of augmentation and optimization, `monitor` and `patience`.
        start: state after an earlier epoch of the same run; training resumes as if it had not stopped.

    Raises:
        DivergedError: the loss is not finite. Parameters are those before the step whose loss that is, though it is
            found after the next step; the running statistics of batch norm are not.
        InputError: a mistake of the user, or the end of another rank.
    """
    with all_ranks(config, train_rank) as group:
        group.broadcast((asdict(config), data.train.fingerprint, data.val.fingerprint, start, model.code))
        yield from _epochs(model, data, config, start, group)


FIELDS_OF_MACHINE = ("data_dir", "download", "cache_dir", "device")
"""Fields that may differ between machines; all ranks use rank 0's values of the other fields."""


def train_rank(config: TrainingConfig, group: ProcessGroup) -> None:
    """Train as a rank other than 0, with the configuration, weights and decisions of rank 0.

    Args:
        config: where the data of this machine are.
        group: connected to rank 0.

    Raises:
        InputError: the data differ from those of rank 0, or another mistake of the user.
    """
    values, *fingerprints, start, code = group.broadcast()
    names = TrainingConfig.__dataclass_fields__.keys() - FIELDS_OF_MACHINE
    own = {name: getattr(config, name) for name in FIELDS_OF_MACHINE}
    config = TrainingConfig(**{name: values[name] for name in names}, **own)
    data = Data(*load_splits(config))
    for split, fingerprint in zip((data.train, data.val), fingerprints, strict=True):
        if split.fingerprint != fingerprint:
            raise InputError(
                f"{split.location} holds other images for {split.title} than the machine of rank 0; "
                f"copy the same data set to every machine"
            )
    with suppress(DivergedError):  # rank 0 raises it at the same step
        for _ in _epochs(build(config, len(data.train.labels), code), data, config, start, group):
            pass


def _epochs(
    model: Segmenter, data: Data, config: TrainingConfig, start: Checkpoint | None, group: ProcessGroup
) -> Generator[Epoch]:
    """The loop that every rank runs. Only rank 0 has the scores of the whole split, so only rank 0 yields."""
    if len(data.train) < group.size:
        raise InputError(f"{len(data.train)} training images are too few for {group.size} processes")
    device = resolve_device(config.device, group.local_rank, group.local_size)
    weights = group.broadcast(class_weights(config, data.train) if group.rank == 0 else None)
    images = TrainingImages(config, data.train)
    step = TrainingStep(model, config, device, group, weights)
    finished_epochs, best_epoch, best_value, best_loss = 0, 0, math.nan, math.nan
    average = None if config.ema is None else AveragedWeights(model, config.ema)
    reason = obstacle(config, device, group.size)
    if reason and config.compile == "true":
        raise InputError(f"compile=true is not possible: {reason}; or set compile=false")
    compilation = Compilation(model) if config.compile == "true" else None
    if start is not None:
        model.load_state_dict(start.trained or start.network)
        if average is not None:
            average.load(start.network)
        optimizers.load_state(step.optimizer, start.optimizer)
        step.scaler.load_state_dict(start.scaler)
        finished_epochs, best_epoch = start.epoch, start.best_epoch
        best_value, best_loss = start.best_value, start.best_loss

    with batch_norm.synchronized(model, device, group) if config.sync_batch_norm else nullcontext():
        for number in range(finished_epochs + 1, config.epochs + 1):
            out_of_patience = config.patience is not None and best_epoch and number - 1 - best_epoch >= config.patience
            if not group.broadcast(not out_of_patience):
                return
            if average is not None and number > finished_epochs + 1:
                average.swap()
            started, compiled = time.perf_counter(), compilation.seconds if compilation else 0.0
            with (
                deterministic(config.deterministic),
                fastest_convolutions(not config.deterministic and config.score_crop == "center"),  # images of one size
                compilation.used() if compilation else nullcontext(),
            ):
                train_loss, train_accuracy, rate = _train_epoch(step, images, config, group, number, average)
                trained = time.perf_counter()
                if average is not None:
                    average.swap()
                    batch_norm.average_statistics(model, group)
                val = _score(model, data.val, config, device, group)
            if config.compile == "auto" and number == finished_epochs + 1 and not reason:
                left = (config.epochs - number) * (time.perf_counter() - started)
                if group.broadcast(pays(left)):
                    compilation = Compilation(model)
            if group.rank > 0:
                continue
            metrics = val.metrics()
            if not math.isfinite(metrics["loss"]):
                raise DivergedError(
                    f"the validation loss is {metrics['loss']} after epoch {number} (learning_rate={rate:g}): try a "
                    f"smaller learning_rate, or a larger batch_size or crop (batch norm needs more than a few values)"
                )
            value = metrics[config.monitor.removeprefix("val/")]
            is_best = (
                number == 1
                or is_better(config.monitor, value, best_value)
                or (value == best_value and metrics["loss"] < best_loss)
            )
            if is_best:
                best_epoch, best_value, best_loss = number, value, metrics["loss"]
            checkpoint = Checkpoint(
                config=asdict(config),
                class_names=list(data.train.labels.names),
                palette=[list(colour) for colour in data.train.labels.palette],
                fingerprint=data.train.fingerprint,
                epoch=number,
                best_epoch=best_epoch,
                best_value=best_value,
                best_loss=best_loss,
                network=model.state_dict(),
                optimizer=step.optimizer.state_dict(),
                scaler=step.scaler.state_dict(),
                trained={} if average is None else average.kept,
                code=None if model.code is None else model.code.as_values(),
            )
            finished = time.perf_counter()
            images_per_second = len(data.train) / (trained - started)
            epoch = Epoch(
                number,
                train_loss,
                train_accuracy,
                val,
                metrics,
                val.ece_interval(RESAMPLES_PER_EPOCH),
                rate,
                finished - started,
                images_per_second,
                compilation.seconds - compiled if compilation else 0.0,
                is_best,
                checkpoint,
            )
            try:
                yield epoch
            except GeneratorExit:
                if number < config.epochs:
                    with suppress(RuntimeError):  # the same signal may have ended the other ranks
                        group.broadcast(False)
                raise


def _train_epoch(
    step: TrainingStep,
    data: TrainingImages,
    config: TrainingConfig,
    group: ProcessGroup,
    number: int,
    average: AveragedWeights | None,
) -> tuple[float, float, float]:
    """Train on as many images as the split has; returns mean loss, pixel accuracy and the last learning rate.

    All random numbers follow from the seed and the epoch's number. Those that a layer draws, such as dropout, also
    depend on the rank.
    """
    seeds = np.random.SeedSequence([config.seed, number]).generate_state(3 + group.rank)
    shuffle = np.random.default_rng(seeds[0])
    order = data.order(shuffle)
    random = torch.Generator().manual_seed(int(seeds[1]))
    torch.manual_seed(int(seeds[2 + group.rank]))
    augmentation = Augmentation(config)

    backbone = step.model.backbone
    is_frozen = number <= (config.freeze_backbone or 0)
    step.model.train()
    backbone.train(not is_frozen)
    backbone.requires_grad_(not is_frozen)
    if config.freeze_batch_norm:
        batch_norm.freeze(backbone)

    parts = index_batches(order, config.batch_size, group.size)
    batches = on_device(_batches(data, parts, shuffle, augmentation, random, group), step.device)
    sums = torch.zeros(3, dtype=torch.float64).unbind()  # on the device after the first step; read once
    rate, check_last = 0.0, _nothing
    with progress(f"epoch {number}/{config.epochs}", len(order), shown=group.rank == 0) as bar, closing(batches):
        for index, batch in enumerate(batches):
            images, masks = augmentation.apply(batch.images, batch.masks, batch.draws)
            steps = (number - 1) * len(parts) + index
            rate = optimizers.learning_rate(config, steps, len(parts))
            optimizers.set_learning_rate(step.optimizer, rate)
            if batch.is_labelled:
                result = step(images, masks, batch.size, bar.update)
                sums = tuple(before + new for before, new in zip(sums, result[:3], strict=True))
                check_last()
                check_last = _finite(result.loss, f"epoch {number}, step {index + 1} of {len(parts)}", rate)
            else:
                bar.update(batch.size)
            if average is not None:
                average.update(steps + 1)
    check_last()
    batch_norm.average_statistics(step.model, group)
    loss_sum, correct, pixels = group.sum(*torch.stack(sums).tolist())
    if not pixels:
        return math.nan, math.nan, rate
    return loss_sum / pixels, correct / pixels, rate


def _batches(
    data: TrainingImages,
    parts: list[np.ndarray],
    shuffle: np.random.Generator,
    augmentation: Augmentation,
    random: torch.Generator,
    group: ProcessGroup,
) -> Iterator[Batch]:
    """Gather this rank's shard of each batch, and draw the random numbers of its augmentation."""
    for indices in parts:
        # for the whole batch: the same on every rank
        crops, draws = data.draw(len(indices), shuffle), augmentation.draw(len(indices), random)
        images, masks = data.gather(group.shard(indices), group.shard(crops))
        is_labelled = any((data.split.masks[index] != VOID).any() for index in indices)  # the first one, as a rule
        yield Batch(images, masks, group.shard(draws), len(indices), is_labelled)


def _finite(loss: torch.Tensor, step: str, rate: float) -> Callable[[], None]:
    """Start to copy the loss of a step to the host; the returned function raises an error if it is not finite."""
    read = copied_to_host(loss)

    def check() -> None:
        if not math.isfinite(value := read()):
            raise DivergedError(
                f"the loss is {value} in {step} (learning_rate={rate:g}): try a smaller learning_rate or "
                f"warmup_epochs=1"
            )

    return check


def _nothing() -> None:
    """Before the first step there is no loss to check."""


def _score(model: Segmenter, val: Split, config: TrainingConfig, device: torch.device, group: ProcessGroup) -> Scores:
    """Scores of the validation split on rank 0, and of its own shard on every other rank."""
    if group.size == 1:
        return score(model, in_order(val, config.batch_size, device), val.labels, config.boundary_width)
    scores = Scores(val.labels, config.boundary_width)
    shard = group.shard(np.arange(len(val)))
    with evaluating(model), progress(f"scoring {val.title}", len(shard), shown=group.rank == 0) as bar:
        for indices in equal_batches(val, shard, max(1, config.batch_size // group.size)):
            images, masks = to_device(device, *val.gather(indices))
            scores.update(at_size_of(masks, model(images)), masks, indices.tolist())
            bar.update(len(indices))
    merge_scores(scores, group)
    return scores


def merge_scores(scores: Scores, group: ProcessGroup) -> None:
    """Add the scores of all ranks to those of rank 0; an image that several ranks have scored counts once."""
    if group.rank > 0:
        numbers = iter(scores.tables[0].images.tolist())
        for block in scores.blocks():
            group.send(([next(numbers) for _ in next(iter(block.values()))], block))
        group.send(None)
        return
    for rank in range(1, group.size):
        while (received := group.receive(rank)) is not None:
            numbers_of_block, block = received
            for table in scores.tables:
                table.append({name: block[name] for name in table.totals}, numbers_of_block)
