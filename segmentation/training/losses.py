"""Training losses. A new loss is a function here and its name in `segmentation/config.py`.

Losses of pixels (cross-entropy, focal) are means over the non-void pixels of a batch, weighted by the class of each
pixel. Losses of regions (Dice, Lovász) are no sums over pixels: they are computed for each image over the classes that
its labels hold, and averaged over these classes and over the images. Both are therefore sums over images, divided by a
total that is known before the first forward pass, and do not depend on the number of micro-batches or processes.

Shapes: batch `B`, classes `C`, image `H` x `W`, non-void pixels of an image `N`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from segmentation.classes import VOID
from segmentation.config import TrainingConfig
from segmentation.devices import countable


class Totals(NamedTuple):
    """What the sums of a loss are divided by, so that they become means over the batch of all processes.

    Float64 scalars on the device of the masks, so that nothing waits for the device; on the CPU if it has no float64.
    """

    weight: torch.Tensor
    """Sum over the non-void pixels of the weight of their class; their number without class weights."""
    images: torch.Tensor
    """Number of images that have a non-void pixel."""


def totals(masks: torch.Tensor, weights: torch.Tensor | None) -> Totals:
    """Return the totals of masks `(B, H, W)` uint8, with class weights `(C,)` on the same device or None."""
    (masks,) = countable(masks)
    valid = masks != VOID
    images = valid.flatten(1).any(1).sum().double()
    if weights is None:
        return Totals(valid.sum().double(), images)
    (weights,) = countable(weights)
    labels = masks.flatten().long()
    pixels = labels.new_zeros(VOID + 1).scatter_add_(0, labels, labels.new_ones(()).expand(len(labels)))
    return Totals(pixels[: len(weights)].double() @ weights.double(), images)


def training_loss(
    outputs: Mapping[str, torch.Tensor],
    masks: torch.Tensor,
    config: TrainingConfig,
    whole: Totals,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss that is minimized, and the cross-entropy that is logged.

    Args:
        outputs: logits `(B, C, H, W)`: `out` of the head, and `aux` of the auxiliary head if `config.auxiliary_loss`.
        masks: `(B, H, W)` class indices, 255 is void.
        config: the loss, its parameters and the weight of the auxiliary head.
        whole: totals of the whole batch, of which these images may be a part. The losses of all parts add up.
        weights: `(C,)` float32 weight of each class, on the device of the logits; None weighs all classes equally.

    Returns:
        The mean over the whole batch of `config.loss`, plus that of the auxiliary head; and the sum over the pixels of
        the cross-entropy of the head in nats, without weights and smoothing.
    """
    loss = LOSSES[config.loss]
    total = loss(outputs["out"], masks, config, whole, weights)
    if config.auxiliary_loss:
        total = total + config.auxiliary_loss * loss(outputs["aux"], masks, config, whole, weights)
    with torch.no_grad():
        return total, cross_entropy_sum(outputs["out"].detach(), masks)


def cross_entropy_sum(
    logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy in nats, summed over the non-void pixels, computed in float32 or higher precision.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.
        weights: `(C,)` weight of each class, or None.
        label_smoothing: fraction of the target that is spread evenly over all classes (Szegedy et al., "Rethinking the
            Inception Architecture for Computer Vision", CVPR 2016).

    Returns:
        A scalar; 0 for a batch that contains only void.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()  # CUDA's kernel for reduction="sum" is not
    loss = F.cross_entropy(
        logits.float(), masks.long(), weights, ignore_index=VOID, reduction="none" if deterministic else "sum",
        label_smoothing=label_smoothing,
    )  # fmt: skip
    return loss.sum() if deterministic else loss


def focal_sum(
    logits: torch.Tensor, masks: torch.Tensor, gamma: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Focal loss, `(1 - p)^gamma` times the cross-entropy, summed over the non-void pixels.

    `p` is the probability of the true class. With `gamma` 0 it is the cross-entropy. Reference: Lin et al., "Focal Loss
    for Dense Object Detection", ICCV 2017, with `weights` as its alpha.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.
        gamma: at least 0; larger values reduce the loss of pixels that are right with high confidence.
        weights: `(C,)` weight of each class, or None.
    """
    log_probabilities = logits.float().log_softmax(1)
    nll = F.nll_loss(log_probabilities, masks.long(), weights, ignore_index=VOID, reduction="none")
    true = masks.long().where(masks != VOID, 0)[:, None]
    log_p = log_probabilities.gather(1, true)[:, 0]
    return (nll * (-torch.expm1(log_p)).clamp_min(0) ** gamma).sum()


def dice_sum(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Soft Dice loss of each image, summed over the images; 0 for an image that is all void.

    For a class, `1 - 2 sum(p y) / (sum(p) + sum(y))` over the non-void pixels of the image, where `p` is the softmax
    probability of the class and `y` is 1 where the label is the class. The loss of an image is the mean over the
    classes that its labels hold. Reference: Milletari et al., "V-Net", 3DV 2016, with the plain sums of Sudre et al.,
    "Generalised Dice Overlap as a Deep Learning Loss Function", DLMIA 2017.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.
        weights: `(C,)` weight of each class in the mean over the classes, or None.
    """
    valid = masks != VOID
    probabilities = logits.float().softmax(1) * valid[:, None]
    labels = masks.long().where(valid, 0).flatten(1)
    true = probabilities.flatten(2).gather(1, labels[:, None])[:, 0]
    classes = probabilities.new_zeros(probabilities.shape[:2])
    intersection = classes.scatter_add(1, labels, true)
    labelled = classes.scatter_add(1, labels, valid.flatten(1).to(classes.dtype))
    dice = 2 * intersection / (probabilities.sum((2, 3)) + labelled).clamp_min(torch.finfo(classes.dtype).tiny)
    return _mean_over_classes(1 - dice, labelled > 0, weights).sum()


def lovasz_sum(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Lovász-Softmax loss of each image, summed over the images; 0 for an image that is all void.

    The loss of a class is the Lovász extension of the Jaccard loss (1 - IoU) at the errors of the non-void pixels,
    `|y - p|`. The loss of an image is the mean over the classes that its labels hold. Reference: Berman, Rannen Triki
    and Blaschko, "The Lovász-Softmax loss", CVPR 2018, with per-image losses over the present classes.

    Args:
        logits: `(B, C, H, W)` floating point.
        masks: `(B, H, W)` class indices, 255 is void.
        weights: `(C,)` weight of each class in the mean over the classes, or None.
    """
    total = logits.float().sum() * 0
    for probabilities, mask in zip(logits.float().softmax(1), masks, strict=True):
        valid = mask != VOID
        labels = mask[valid].long()
        if not len(labels):
            continue
        present = labels.unique()
        true = (labels == present[:, None]).to(probabilities.dtype)  # (present classes, N)
        errors, order = (true - probabilities[:, valid][present]).abs().sort(1, descending=True)
        losses = (errors * jaccard_differences(true.gather(1, order))).sum(1)
        chosen = torch.ones_like(losses, dtype=torch.bool)
        total = total + _mean_over_classes(losses, chosen, None if weights is None else weights[present])
    return total


def jaccard_differences(true: torch.Tensor) -> torch.Tensor:
    """How much each further wrong pixel adds to the Jaccard loss, if the pixels become wrong one after the other.

    Args:
        true: `(K, N)` 1 for pixels of the class and 0 for others, from the first pixel to become wrong to the last.

    Returns:
        `(K, N)`: gradient of the Lovász extension, Algorithm 1 of Berman et al.
    """
    hits = true.long().cumsum(1)
    whole = hits[:, -1:]
    intersection = whole - hits
    union = whole + (1 - true.long()).cumsum(1)
    jaccard = 1 - intersection.to(true.dtype) / union.to(true.dtype)
    return torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)


def _mean_over_classes(losses: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Weighted mean over the last axis of `(..., C)`, of the chosen classes; 0 where their weights sum to 0."""
    share = chosen.to(losses.dtype) if weights is None else chosen * weights.to(losses.dtype)
    return (losses * share).sum(-1) / share.sum(-1).clamp_min(torch.finfo(losses.dtype).tiny)


def _mean(loss: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """The sum `loss` divided by `total`; the sum itself, which is 0, where the total is 0."""
    total = total.to(loss)
    return loss / total.where(total > 0, 1)


Loss = Callable[[torch.Tensor, torch.Tensor, TrainingConfig, Totals, torch.Tensor | None], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "cross_entropy": lambda logits, masks, config, whole, weights: _mean(
        cross_entropy_sum(logits, masks, weights, config.label_smoothing), whole.weight
    ),
    "focal": lambda logits, masks, config, whole, weights: _mean(
        focal_sum(logits, masks, config.focal_gamma, weights), whole.weight
    ),
    "dice": lambda logits, masks, config, whole, weights: _mean(dice_sum(logits, masks, weights), whole.images),
    "lovasz": lambda logits, masks, config, whole, weights: _mean(lovasz_sum(logits, masks, weights), whole.images),
    "cross_entropy+dice": lambda *values: LOSSES["cross_entropy"](*values) + LOSSES["dice"](*values),
}
"""The part of the mean over the whole batch that some images contribute, by the name of the loss."""
