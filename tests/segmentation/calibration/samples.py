"""Logits, images and labels of known calibration."""

import numpy as np
import torch

from segmentation.calibration.fitting import Batches

CLASSES = 4
SIDE = 16

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def drawn(logits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Labels drawn from the probabilities of the logits, `(B, H, W)`."""
    probabilities = logits.softmax(1).permute(0, 2, 3, 1)
    labels = torch.multinomial(probabilities.reshape(-1, logits.shape[1]), 1, generator=random)
    return labels.reshape(probabilities.shape[:3])


def split(true_temperature: float | torch.Tensor = 1.8, images: int = 4, seed: int = 0, scale: float = 3.0) -> Batch:
    """Logits, images that are dark on the left and bright on the right, and labels, a tenth of them void."""
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, CLASSES, SIDE, SIDE, generator=random)
    rgb = torch.randint(0, 60, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=random)
    rgb[..., SIDE // 2 :] += 160
    labels = drawn(logits / true_temperature, random)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return logits, rgb, labels


def in_batches(whole: Batch, sizes: tuple[int, ...] = (2, 2)) -> Batches:
    return lambda: zip(*(tensor.split(sizes) for tensor in whole), strict=True)


def pixels(whole: Batch) -> tuple[np.ndarray, np.ndarray]:
    """All non-void pixels at once: logits `(N, C)` float64 and labels `(N,)`."""
    logits, _, labels = whole
    valid = labels != 255
    return logits.double().permute(0, 2, 3, 1)[valid].numpy(), labels[valid].numpy()
