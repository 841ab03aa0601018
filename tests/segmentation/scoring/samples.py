"""Logits and masks of a few images, and their scores."""

import torch
from torch.nn import functional as F

from segmentation.classes import Classes
from segmentation.scoring.scores import Scores

LABELS = Classes.named("a", "b", "c", "absent")


def batch(seed: int = 0, images: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 4, 6, 7, generator=random)
    logits[:, 3] = -20
    labels = torch.randint(0, 3, (images, 6, 7), generator=random)
    labels[0, 1:] = 255  # images differ in their number of pixels
    return logits, labels


def scores_of(logits: torch.Tensor, labels: torch.Tensor, size: int) -> Scores:
    scores = Scores(LABELS)
    for start in range(0, len(logits), size):
        scores.update(logits[start : start + size], labels[start : start + size])
    return scores


def rare_class(images: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """A class that is in one image of 40 only and mostly wrong there; the others are mostly correct."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (images, 8, 8), generator=random)
    labels[7, :4] = 2
    wrong = torch.rand(labels.shape, generator=random) < torch.where(labels == 2, 0.8, 0.1)
    predicted = torch.where(wrong, 0, labels)
    return 4 * F.one_hot(predicted, 4).movedim(-1, 1).float(), labels
