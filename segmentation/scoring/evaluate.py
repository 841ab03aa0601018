"""One pass of a model over a split, which counts all pixels of each image."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from segmentation.classes import Classes
from segmentation.scoring.resizing import resized
from segmentation.scoring.scores import BOUNDARY_WIDTH, Scores
from segmentation.system.full_precision import full_precision


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients and without TF32; restores the mode of each module at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), full_precision():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def score(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    labels: Classes,
    boundary_width: int = BOUNDARY_WIDTH,
) -> Scores:
    """Scores of a model in evaluation mode and float32, whatever the precision of its training.

    Args:
        model: maps images to logits `(B, C, h, w)`.
        batches: images `(B, 3, h, w)` uint8 and masks `(B, H, W)`. Where the sizes differ, the logits are resized
            bilinearly to the masks' size.
        labels: the classes.
        boundary_width: rows and columns on either side of a boundary that belong to its band, at the masks' size.
    """
    scores = Scores(labels, boundary_width)
    with evaluating(model):
        for images, masks in batches:
            scores.update(model(images), masks)
    return scores


def at_size_of(masks: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Logits `(B, C, h, w)` at the size of masks `(B, H, W)`, see `resized`."""
    return resized(logits, masks.shape[1:])
