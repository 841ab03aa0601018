"""Training: `train` yields an `Epoch` after each pass; who iterates may log it, keep it, or stop.

With several processes, the first one runs `train` and the others `follow`; each sees its share of every batch, and the
sums over all shares are those of one process.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.data import Split, load_split
from segmentation.data.batches import in_order, index_batches
from segmentation.devices import autocast, copied, deterministic, memory_format, resolve_device, resolve_precision
from segmentation.errors import DivergedError, InputError
from segmentation.metrics import is_better
from segmentation.models.segmenter import Segmenter, build
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.counting import count_correct
from segmentation.scoring.evaluate import at_size_of, evaluating, score
from segmentation.scoring.scores import Scores
from segmentation.system.progress import progress
from segmentation.training import distributed, optimizers
from segmentation.training.augmentation import Augmentation
from segmentation.training.checkpoints import Checkpoint
from segmentation.training.distributed import Team
from segmentation.training.losses import cross_entropy_sum
from segmentation.training.norm_statistics import one_update
from segmentation.training.sync_batch_norm import synchronised

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


def train(network: Segmenter, data: Data, config: TrainingConfig, start: Checkpoint | None = None) -> Generator[Epoch]:
    """Train a network and yield after every epoch.

    Args:
        network: trained in place, and moved to `config.device`.
        data: two splits with the same classes.
        config: all of its optimisation and augmentation fields, and `monitor` and `patience`.
        start: the state after an earlier epoch of the same training; it goes on as if it had never stopped.

    With several processes, this one starts the others or meets those of `torchrun`; they end with it, or as soon as
    nobody iterates any more.

    Raises:
        DivergedError: the loss is no longer finite. The weights are those before the step that found it.
        InputError: what the user can mend, such as that another process has ended.
    """
    with distributed.together(config, follow) as team:
        yield from _lead(network, data, config, start, team)


def _lead(
    network: Segmenter, data: Data, config: TrainingConfig, start: Checkpoint | None, team: Team
) -> Iterator[Epoch]:
    """Train as the first process of a team."""
    team.told((data.train.fingerprint, data.val.fingerprint, start))
    training = _Training(network, data, config, start, team)
    finished_epochs, best_epoch, best_value = 0, 0, math.nan
    if start is not None:
        finished_epochs, best_epoch, best_value = start.epoch, start.best_epoch, start.best_value

    for number in range(finished_epochs + 1, config.epochs + 1):
        if config.patience is not None and best_epoch and number - 1 - best_epoch >= config.patience:
            return
        started = time.perf_counter()
        with team.epoch(number), deterministic(config.deterministic):
            train_loss, train_accuracy, rate = training.one_pass(number)
            trained = time.perf_counter()
            val = training.scores()
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
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
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


def follow(config: TrainingConfig, team: Team) -> None:
    """Train as any process but the first, which has the starting weights, takes the decisions and records.

    Args:
        config: that of the first process, but for where the data are on this machine.
        team: this process's place in it.

    Raises:
        InputError: the data are not those of the first process, or whatever the user can mend.
    """
    device = resolve_device(config.device, team.local_rank, team.local_size)
    data = Data(load_split(config, config.train_split), load_split(config, config.val_split))
    team.meet(device)
    *fingerprints, start = team.told()
    for split, fingerprint in zip((data.train, data.val), fingerprints, strict=True):
        if split.fingerprint != fingerprint:
            raise InputError(
                f"{split.location} holds other images for {split.dataset}/{split.name} than the first process has; "
                f"copy the same data set to every machine"
            )
    training = _Training(build(config, len(data.train.labels)), data, config, start, team)
    try:
        while number := team.next_epoch():
            with deterministic(config.deterministic):
                training.one_pass(number)
                training.scores()
    except DivergedError:
        return  # the first process has found it at the same step


class _Training:
    """A network and what changes it, in one of the processes that train it together, or in the only one."""

    def __init__(
        self, network: Segmenter, data: Data, config: TrainingConfig, start: Checkpoint | None, team: Team
    ) -> None:
        if len(data.train) < team.size:
            raise InputError(f"{len(data.train)} training images cannot be shared by {team.size} processes")
        self.device = resolve_device(config.device, team.local_rank, team.local_size)
        self.context = autocast(self.device, resolve_precision(config.precision, self.device))
        layout = memory_format(self.device, config.channels_last)
        self.network = network.to(self.device).to(memory_format=layout)
        self.data = data
        self.config = config
        self.team = team
        self.optimizer = optimizers.build_optimizer(network, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        if start is not None:
            network.load_state_dict(start.network)
            self.optimizer.load_state_dict(start.optimizer)
            self.scaler.load_state_dict(start.scaler)
        self._parallel: DistributedDataParallel | None = None
        self._learning: list[bool] = []

    def one_pass(self, number: int) -> tuple[float, float, float]:
        """Train on every image once; returns mean loss, pixel accuracy and the last learning rate.

        All that is random follows from the seed and the epoch's number, whatever happened before, and from the number
        of processes: what a layer draws by itself, as dropout does, differs between them.
        """
        config, split, network, team = self.config, self.data.train, self.network, self.team
        seeds = np.random.SeedSequence([config.seed, number]).generate_state(3 + team.rank)
        order = np.random.default_rng(seeds[0]).permutation(len(split))
        random = torch.Generator().manual_seed(int(seeds[1]))
        torch.manual_seed(int(seeds[2 + team.rank]))
        augment = Augmentation(config)

        frozen = number <= (config.freeze_backbone or 0)
        network.train()
        network.backbone.train(not frozen)
        optimizers.trainable(network.backbone, not frozen)
        if config.freeze_batch_norm:
            for module in network.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    optimizers.trainable(module, False)

        batches = index_batches(order, config.batch_size, team.size)
        loss_sum, correct, pixels, rate = 0.0, 0, 0, 0.0
        together = config.sync_batch_norm and team.size > 1
        with (
            synchronised(network) if together else nullcontext(),
            progress(f"epoch {number}/{config.epochs}", len(split)) as bar,
        ):
            for step, indices in enumerate(batches):
                draws = augment.draw(len(indices), random)
                images, masks = augment.change(*split.gather(team.share(indices)), team.share(draws))
                rate = optimizers.learning_rate(config, (number - 1) * len(batches) + step, len(batches))
                optimizers.set_learning_rate(self.optimizer, rate)
                try:
                    batch_loss, batch_correct, batch_pixels = self._one_step(images, masks, len(indices))
                except FloatingPointError as error:
                    raise DivergedError(
                        f"the loss became {error} in epoch {number}, step {step + 1} of {len(batches)} "
                        f"(learning_rate={rate:g}); try a smaller learning_rate or warmup_epochs=1"
                    ) from None
                loss_sum, correct, pixels = loss_sum + batch_loss, correct + batch_correct, pixels + batch_pixels
                bar.update(len(indices))
        team.pool(*_running_statistics(network))
        whole_loss, whole_correct, whole_pixels = team.total(loss_sum, correct, pixels)
        if not whole_pixels:
            return math.nan, math.nan, rate
        return whole_loss / whole_pixels, whole_correct / whole_pixels, rate

    def scores(self) -> Scores:
        """Score the validation split; the scores are whole in the first process, and of its own share in another."""
        val, config, team = self.data.val, self.config, self.team
        if team.size == 1:
            batches = in_order(val, config.batch_size, self.device)
            return score(self.network, batches, val.labels, config.boundary_width)
        scores = Scores(val.labels, config.boundary_width)
        own = team.share(np.arange(len(val)))
        with evaluating(self.network), progress(f"scoring {val.dataset}/{val.name}", len(own)) as bar:
            for indices in index_batches(own, max(1, config.batch_size // team.size)):
                images, masks = copied(self.device, *val.gather(indices))
                scores.update(at_size_of(masks, self.network(images)), masks, indices.tolist())
                bar.update(len(indices))
        merge_all(scores, team)
        return scores

    def _one_step(self, images: torch.Tensor, masks: torch.Tensor, whole: int) -> tuple[float, int, int]:
        """One optimiser step on this process's images `(B, 3, H, W)` and masks `(B, H, W)` of `whole` in all processes.

        The loss is the mean over the whole batch's non-void pixels, however many forward passes it takes, and however
        many processes. Batch norm normalises each forward pass by itself; its running statistics move once a step.

        Returns:
            Loss sum, right pixels and pixels of this process's images.
        """
        pixels = int((masks != VOID).sum())
        (whole_pixels,) = self.team.total(pixels)
        if whole_pixels == 0:
            return 0.0, 0, 0
        config, scaler = self.config, self.scaler
        outputs_of = self._forward()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, correct = 0.0, 0
        parts = self._parts(len(images), whole)
        with one_update(self.network) if len(parts) > 1 else nullcontext():
            for place, part in enumerate(parts):
                part_images, part_masks = copied(self.device, images[part], masks[part])
                with self._parallel.no_sync() if self._parallel and place < len(parts) - 1 else nullcontext():
                    with self.context:
                        outputs = _training_outputs(outputs_of, part_images)
                    loss = main_loss = cross_entropy_sum(outputs["out"], part_masks)
                    if config.auxiliary_loss:
                        loss = loss + config.auxiliary_loss * cross_entropy_sum(outputs["aux"], part_masks)
                    (whole_loss,) = self.team.total(loss.item())
                    if not math.isfinite(whole_loss):
                        raise FloatingPointError(whole_loss)
                    # several processes' gradients are averaged
                    scaler.scale(loss / (whole_pixels / self.team.size)).backward()
                loss_sum += main_loss.item()
                correct += count_correct(outputs["out"], part_masks)
        scaler.step(self.optimizer)
        scaler.update()
        return loss_sum, correct, pixels

    def _parts(self, images: int, whole: int) -> list[np.ndarray]:
        """Places of the images of each forward pass; there are equally many passes in all processes."""
        if self.team.size == 1:
            return index_batches(np.arange(images), self.config.micro_batch or images)
        fewest = whole // self.team.size
        return np.array_split(
            np.arange(images), len(index_batches(np.arange(fewest), self.config.micro_batch or fewest))
        )

    def _forward(self) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        """The network's outputs; with several processes, their backward pass averages the gradients of all."""
        if self.team.size == 1:
            return self.network.outputs
        learning = [parameter.requires_grad for parameter in self.network.parameters()]
        if self._parallel is None or learning != self._learning:
            self._parallel = DistributedDataParallel(_Outputs(self.network), gradient_as_bucket_view=True)
            self._parallel.broadcast_buffers = False  # not at each step; the first process's are taken over once
            self._learning = learning
        return self._parallel


class _Outputs(nn.Module):
    """`Segmenter.outputs` as a module's forward pass, which is the one that averages gradients."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network.outputs(images)


def _running_statistics(network: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The means and the variances that batch norm keeps of the batches it has seen."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    return [mean for mean, _ in kept if mean is not None], [var for _, var in kept if var is not None]


def merge_all(scores: Scores, team: Team) -> None:
    """Add to the first process's scores those of all others; an image that several have scored counts once."""
    if team.rank:
        numbers = iter(scores.tables[0].images.tolist())
        for block in scores.blocks():
            team.send(([next(numbers) for _ in next(iter(block.values()))], block))
        team.send(None)
        return
    for rank in range(1, team.size):
        while (found := team.received(rank)) is not None:
            numbers, block = found
            for table in scores.tables:
                table.append({name: block[name] for name in table.totals}, numbers)


def _training_outputs(
    outputs_of: Callable[[torch.Tensor], dict[str, torch.Tensor]], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The forward pass of training; what the user can mend about it is told as such."""
    try:
        return outputs_of(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch norm cannot learn from {len(images)} image(s) of {images.shape[3]} x {images.shape[2]} pixels at a "
            f"time in this network; make batch_size and micro_batch at least 2 for each process, or the pictures larger"
        ) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            f"there is not enough memory for {len(images)} images of {images.shape[3]} x {images.shape[2]} pixels at a "
            f"time; set micro_batch to a smaller number, which keeps the batch_size that counts"
        ) from error
