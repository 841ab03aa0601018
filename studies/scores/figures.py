"""Plots of a scored split: reliability diagrams, risk-coverage curve, example images."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from segmentation import plots
from segmentation.data import Originals, Split
from segmentation.io.channels import display_note, displayed
from segmentation.models.segmenter import Segmenter
from segmentation.scoring import calibration_error
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.evaluate import at_size_of, evaluating
from segmentation.scoring.groups import Group, GroupReliability
from segmentation.scoring.pixel_predictions import pixel_predictions
from segmentation.scoring.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_figures(
    scores: Scores,
    groups: Mapping[Group, GroupReliability],
    intervals: Mapping[str, Interval],
    title: str,
    note: str,
) -> Iterator[tuple[str, "Figure"]]:
    """Yield every calibration plot, with the suffix of its file name."""
    ece, gap = intervals["ece"], intervals["confidence_gap"]
    yield "", plots.reliability(scores.reliability.bins(), title, ece, scores.accuracy_band(), note, gap)
    for suffix, kind, words in (
        ("_classes", "true class", "by true class"), ("_predicted", "predicted class", "by predicted class")
    ):  # fmt: skip
        of_kind = {group.name: found for group, found in groups.items() if group.kind == kind}
        panels = {name: found.bins for name, found in of_kind.items()}
        gaps = {name: found.confidence_gap for name, found in of_kind.items()}
        yield suffix, plots.reliability_panels(panels, f"{title}\n{words}", note, gaps)
    width = f"within {scores.boundary_width} pixels of a boundary"
    named = {"boundary": width, "interior": "interior", "foreground": "foreground", "background": "background"}
    for suffix, kind in (("_boundary", "region"), ("_foreground", "ground")):
        lines = {named[group.name]: found.bins for group, found in groups.items() if group.kind == kind}
        if lines:
            yield suffix, plots.reliability_lines(lines, title, note=note)
    ordered = scores.log_odds_bins()
    area = float(calibration_error.area_under_risk_coverage(ordered.count, ordered.correct))
    curve = calibration_error.risk_coverage(ordered.count, ordered.correct)
    yield "_risk_coverage", plots.risk_coverage({"model": curve}, title, {"model": f"area {area:.4f}"}, note=note)


def example_plots(
    model: Segmenter, split: Split, device: torch.device, count: int, state: str
) -> Iterator[tuple[str, "Figure"]]:
    """Yield a name and a plot for each of `count` images spread evenly over the split."""
    for number, index in enumerate(spread(split, count)):
        shown = predicted(model, split, index, device)
        yield f"{number}", plots.example(*shown, split.labels, example_title(split, index, state))


def example_title(split: Split | Originals, index: int, state: str) -> str:
    """Return the title of a plotted image: its name, the model, and which channels are shown if it is not RGB."""
    note = display_note(split.channels, split.bits)
    return f"{split.names[index]}, {state}" + (f"\n{note}" if note else "")


def spread(split: Split | Originals, count: int) -> list[int]:
    """Return the indices of `count` images spread evenly over the split."""
    return [int(index) for index in np.unique(np.linspace(0, len(split) - 1, count).round().astype(int))]


def predicted(
    model: torch.nn.Module, split: Split | Originals, index: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predict one image of a split.

    Returns:
        Image `(H, W, 3)` uint8 as `channels.displayed` shows it, true and predicted class `(H, W)` uint8, confidence
        `(H, W)`.
    """
    images, masks = split.gather(np.array([index]))
    with evaluating(model):
        logits = at_size_of(masks, model(images.to(device)))
        pixels = pixel_predictions(logits, masks.to(device))
    if images.shape[2:] != masks.shape[1:]:
        images = F.interpolate(images.float(), masks.shape[1:], mode="bilinear").round().to(images.dtype)
    return (
        displayed(images[0].permute(1, 2, 0).numpy()), masks[0].numpy(), pixels.label[0].cpu().numpy().astype(np.uint8),
        pixels.confidence[0].cpu().numpy(),
    )  # fmt: skip
