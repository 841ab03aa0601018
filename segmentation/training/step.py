"""One optimizer step on one batch: forward passes, loss, gradients, update. Shapes: batch `B`, classes `C`.

On a GPU a step is queued, not awaited: everything that depends on its loss is decided there, and the host reads no
number of the step itself. The exceptions are `loss=lovasz`, and devices without fused optimizers, such as Apple's mps.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.data.batches import index_batches
from segmentation.devices import autocast, countable, memory_format, resolve_precision
from segmentation.errors import InputError, counted
from segmentation.models.segmenter import Segmenter
from segmentation.scoring.softmax_counts import count_correct
from segmentation.training import optimizers
from segmentation.training.batch_norm import one_update
from segmentation.training.losses import Totals, totals, training_loss
from segmentation.training.process_group import ProcessGroup


class StepResult(NamedTuple):
    """Scalars on the device; on the CPU where it has no float64. The first three are of this rank."""

    loss_sum: torch.Tensor
    """Cross-entropy summed over the non-void pixels, float64."""
    correct: torch.Tensor
    """Number of correct pixels, int64."""
    pixels: torch.Tensor
    """Number of non-void pixels, int64."""
    loss: torch.Tensor
    """Loss of the batch of all ranks, float32. If it is not finite, this step and all later ones change no weight."""


class TrainingStep:
    """Optimizer, gradient scaler and gradient averaging of one rank; calling it trains on one batch."""

    def __init__(
        self,
        model: Segmenter,
        config: TrainingConfig,
        device: torch.device,
        group: ProcessGroup,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.model = model.to(device).to(memory_format=memory_format(device, config.channels_last))
        self.config = config
        self.device = device
        self.group = group
        self.class_weights = None if class_weights is None else class_weights.to(device)
        self.optimizer = optimizers.build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self._has_diverged = torch.zeros((), dtype=torch.bool, device=device)
        self._autocast = autocast(device, resolve_precision(config.precision, device))
        self._parallel: DistributedDataParallel | None = None
        self._trainable: list[bool] = []
        if device.type == "cpu" and config.compile == "false":
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.register_forward_hook(_let_signals_in)

    def __call__(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        batch_size: int,
        advance: Callable[[int], object] = lambda images: None,
    ) -> StepResult:
        """Update the weights by the gradient of the loss of the whole batch, see `losses`.

        The result does not depend on the number of forward passes or ranks, except through batch norm, which normalizes
        each forward pass by itself; its running statistics are updated once. A batch that is all void changes no
        weight, though batch norm sees it.

        Args:
            images: `(B, N, H, W)` uint8 or uint16 of this rank, on the device of the model.
            masks: `(B, H, W)` uint8.
            batch_size: number of images of all ranks.
            advance: called after each forward and backward pass with its number of images of all ranks.
        """
        summed = self.group.sum_on_device(torch.stack(totals(masks, self.class_weights)))
        # DistributedDataParallel averages the gradients of the ranks
        whole = Totals(*summed / self.group.size)
        skip = self._has_diverged | (whole.weight == 0).to(self.device)
        forward = self._forward()
        self.optimizer.zero_grad(set_to_none=True)
        losses, losses_to_log, correct = [], [], []
        parts = self._micro_batches(len(images), batch_size)
        with one_update(self.model) if len(parts) > 1 else nullcontext():
            for number, part in enumerate(parts, 1):
                part_images, part_masks = images[part], masks[part]
                with self._parallel.no_sync() if self._parallel and number < len(parts) else nullcontext():
                    with self._autocast:
                        outputs = _outputs(forward, part_images)
                    loss, loss_to_log = training_loss(outputs, part_masks, self.config, whole, self.class_weights)
                    self._scaled(loss, skip).backward()
                losses.append(loss.detach())
                losses_to_log.append(loss_to_log)
                correct.append(count_correct(outputs["out"], part_masks))
                advance(batch_size * number // len(parts) - batch_size * (number - 1) // len(parts))
        loss = self.group.sum_on_device(torch.stack(losses).sum())
        self._has_diverged = self._has_diverged | ~loss.isfinite()
        self._update(skip | self._has_diverged)
        loss_sum = torch.as_tensor(sum(each.double() for each in countable(*losses_to_log)))
        right, pixels = countable(torch.stack(correct).sum(), (masks != VOID).sum())
        return StepResult(loss_sum, right, pixels, loss)

    def _scaled(self, loss: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The loss times the factor of the gradient scaler, which skips the update if a gradient is NaN."""
        return self.scaler.scale(loss.where(~skip, torch.nan)) if self.scaler.is_enabled() else loss

    def _update(self, skip: torch.Tensor) -> None:
        """Clip the gradients and update the weights, unless `skip` is true on the device."""
        if self.config.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        if not self.scaler.is_enabled():
            optimizers.update(self.optimizer, skip.float())
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _micro_batches(self, images: int, batch_size: int) -> list[slice]:
        """The images of each forward pass; all ranks have the same number of passes."""
        micro_batch = self.config.micro_batch
        assert micro_batch != "auto", "choose_micro_batch replaces it"
        if self.group.size == 1:
            parts = index_batches(np.arange(images), micro_batch or images)
        else:
            smallest = batch_size // self.group.size
            passes = len(index_batches(np.arange(smallest), micro_batch or smallest))
            parts = np.array_split(np.arange(images), passes)
        return [slice(part[0], part[-1] + 1) for part in parts]

    def _forward(self) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        """The model's forward pass; with several ranks, its backward pass averages the gradients."""
        if self.group.size == 1:
            return self.model.outputs
        trainable = [parameter.requires_grad for parameter in self.model.parameters()]
        if self._parallel is None or trainable != self._trainable:
            self._parallel = DistributedDataParallel(_Outputs(self.model), gradient_as_bucket_view=True)
            self._parallel.broadcast_buffers = False  # rank 0's buffers are broadcast once, not at every step
            self._trainable = trainable
        return self._parallel


class _Outputs(nn.Module):
    """`Segmenter.outputs` as a forward pass, because DistributedDataParallel averages gradients of `forward` only."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model.outputs(images)


def _let_signals_in(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
    """Call Python in the backward pass of a layer: a signal is handled there, instead of after the whole pass."""
    if output.requires_grad:
        output.register_hook(lambda gradient: None)


def _outputs(
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Run the forward pass; batches that are too small or too large raise an `InputError`."""
    try:
        return forward(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch norm needs more than {counted(len(images), 'image')} of {images.shape[3]} x {images.shape[2]} "
            f"pixels per forward pass in this model: set batch_size and micro_batch to at least 2 for each process, "
            f"or use larger images"
        ) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            f"not enough memory for a forward pass of {len(images)} images of {images.shape[3]} x {images.shape[2]} "
            f"pixels: set a smaller micro_batch; the optimizer step still uses all of batch_size"
        ) from error
