"""Temperatures fitted to bootstrap resamples of the fitting images, for intervals that include the fit."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from segmentation.calibration.calibrators import HIGHEST, LOWEST
from segmentation.classes import VOID
from segmentation.scoring.bootstrap import resampled

NODES = 9
"""Temperatures at which the slopes of all images are computed; between them the resamples are interpolated."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def refitted_temperatures(
    passes: Iterable[Batch], temperature: float, resamples: int | None = None, seed: int = 1
) -> np.ndarray:
    """The best temperature for each resample of the fitting images, `(R,)`; images are drawn with replacement.

    The slope of the NLL by 1/T is a sum over images. It is computed for each image at `NODES` values of 1/T, and its
    root in a resample is interpolated between them. The values cover the range of the temperatures that one step of
    Newton's method from the best temperature finds for the resamples.

    Args:
        passes: iterable of logits, images and labels of the fitting images; each iteration is a new pass.
        temperature: the best for all fitting images.
        resamples: number of resamples, `R`; None for `bootstrap.RESAMPLES`.
        seed: seed of the draws; it differs from that of the scored images, which are drawn independently.
    """
    slope, curvature = _image_slopes(passes, np.array([1 / temperature]))

    def step(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        slopes, curvatures = sums["slope"][:, 0], sums["curvature"][:, 0]
        return {"step": np.divide(-slopes, curvatures, out=np.zeros_like(slopes), where=curvatures > 0)}

    steps = resampled(step, [{"slope": slope, "curvature": curvature}], len(slope), resamples, seed)["step"]
    # in the logarithm, so that temperatures stay positive; 1.5 times as far, because one step falls short of the root
    reach = np.log1p(1.5 * np.abs(steps).max() * temperature)
    lowest, highest = np.clip(np.exp([-reach, reach]) / temperature, 1 / HIGHEST, 1 / LOWEST)
    inverses = np.geomspace(lowest, highest, NODES)
    slope, _ = _image_slopes(passes, inverses)

    def root(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        slopes = sums["slope"]  # (R, NODES), rising: the NLL is convex
        right = np.clip((slopes < 0).sum(1), 1, NODES - 1)[:, None]
        low, high = (np.take_along_axis(slopes, right - step, 1)[:, 0] for step in (1, 0))
        part = np.clip(np.divide(-low, high - low, out=np.zeros_like(low), where=high > low), 0, 1)
        logs = np.log(inverses)
        return {"temperature": np.exp(-(logs[right[:, 0] - 1] * (1 - part) + logs[right[:, 0]] * part))}

    return resampled(root, [{"slope": slope}], len(slope), resamples, seed)["temperature"]


def _image_slopes(passes: Iterable[Batch], inverses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of both `derivatives` over the pixels of each image at each of K values of 1/T; `(N, K)` float64 each."""
    found: list[np.ndarray] = []
    for logits, _, labels in passes:
        for inverse in inverses:
            pair = derivatives(logits, labels, float(inverse))
            found.append(torch.stack([part.sum((1, 2), dtype=torch.float64) for part in pair]).cpu().numpy())
    count = len(inverses)
    batches = [np.stack(found[start : start + count], -1) for start in range(0, len(found), count)]  # (2, B, K)
    slope, curvature = np.concatenate(batches, 1)
    return slope, curvature


@torch.no_grad()
def derivatives(
    logits: torch.Tensor, labels: torch.Tensor, inverse: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second derivative of each pixel's NLL by 1/T, `(B, H, W)`; 0 at void pixels.

    They are E_p[z] - z_y and Var_p[z] for logits z, true class y, and p the softmax of z / T.
    """
    valid = labels != VOID
    shifted = logits - logits.amax(1, keepdim=True)
    true = shifted.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
    weighted = (shifted * inverse).exp_()
    total = weighted.sum(1)
    mean = weighted.mul_(shifted).sum(1) / total
    variance = weighted.mul_(shifted).sum(1) / total - mean.square()
    return torch.where(valid, mean - true, 0), torch.where(valid, variance, 0)
