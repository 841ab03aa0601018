"""What is counted on the pixels of each image: all that the figures of `segmentation.scoring.evaluate` follow from."""

import numpy as np
import torch

from segmentation.devices import countable
from segmentation.scoring.calibration_error import BINS, coarse
from segmentation.scoring.log_odds import LOG_ODDS_BINS, bin_of_log_odds
from segmentation.scoring.reliability import FINE_BINS, Bins, bin_of, histogram_columns, histograms, numbered
from segmentation.scoring.softmax import PixelPredictions, check_classes, check_shapes, pixel_predictions


def columns(classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Columns of an `ImageTable` that hold what is counted on an image, but for those of the tables in `Scores`."""
    return (
        {"pixels": ("u4", ()), "negative_log_likelihood": ("f8", ()), "brier": ("f8", ())}
        | histogram_columns((), LOG_ODDS_BINS, "log_odds_")
        | histogram_columns((), BINS, "boundary_")
        | histogram_columns((classes,), BINS, "true_")
        | histogram_columns((classes,), BINS, "predicted_")
        | histogram_columns((classes,), BINS, "one_vs_rest_")
    )


def count_pixels(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> dict[str, np.ndarray]:
    """Count the non-void pixels of each image.

    On the CPU float32 logits are counted in one compiled pass, on CUDA by torch; the definitions are the same, and
    probabilities differ in their last digits. Any other device may lack float64: its logits are copied to the CPU.

    Args:
        logits: `(B, C, H, W)` floating point, never probabilities; half precision is computed in float32.
        masks: `(B, H, W)` class indices below `C`, 255 is void.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Arrays `(B, ...)` by the names of `columns`; the fine histogram as `count`, `confidence_sum` and `correct`,
        `(B, 600)` each; and `confusion`, `(B, C, C)`.

    Raises:
        ValueError: a shape, a type or a label does not fit.
    """
    logits, masks, near = countable(logits, masks, near)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        check_shapes(logits, masks)
        return _compiled(logits, masks.to(torch.uint8), near)
    return _by_torch(logits, masks, near)


def count_right(logits: torch.Tensor, masks: torch.Tensor) -> int:
    """How many pixels have their true class for the most probable one, the lowest of equals; void is never right.

    Args:
        logits: `(B, C, H, W)` floating point, at least two classes.
        masks: `(B, H, W)` uint8 class indices, 255 is void; on the same device.

    Raises:
        ValueError: there is a single class.
    """
    check_classes(logits)
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        from segmentation.scoring import compiled_counting

        return compiled_counting.count_right(logits, masks)
    return int((logits.detach().max(1).indices == masks).sum())


def _compiled(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> dict[str, np.ndarray]:
    from segmentation.scoring import compiled_counting

    counts = compiled_counting.count_images(logits, masks, near)
    pixels = counts.confusion.sum((1, 2))
    fine = _bins(counts.fine, counts.fine_confidence)
    predicted = _bins(counts.predicted, counts.predicted_confidence)
    above = _bins(counts.predicted + counts.other, counts.predicted_confidence + counts.other_confidence)
    return _named(
        pixels,
        counts.loss_and_brier[:, 0],
        counts.loss_and_brier[:, 1],
        counts.confusion,
        Bins(*(part.sum(1) for part in fine.named().values())),
        _bins(counts.log_odds, counts.log_odds_confidence),
        Bins(*(coarse(part[:, 1]) for part in fine.named().values())),
        _bins(counts.true, counts.true_confidence),
        predicted,
        _with_first_bin(above, pixels, counts.probability, counts.confusion.sum(2)),
    )


def _by_torch(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> dict[str, np.ndarray]:
    pixels = pixel_predictions(logits, masks)
    images, classes = logits.shape[:2]
    fine = bin_of(pixels.confidence, FINE_BINS)
    bin_index = fine // (FINE_BINS // BINS)

    def by(group: torch.Tensor | int, groups: int, counts: torch.Tensor) -> Bins:
        row = torch.where(counts, numbered(masks) * groups + group, images * groups)
        found = histograms(row, bin_index, pixels.confidence, pixels.correct & counts, images * groups, BINS)
        return found.each(images, groups)

    row = torch.where(pixels.valid, numbered(masks), images)
    cells = images * classes * classes
    cell = torch.where(pixels.valid, (numbered(masks) * classes + masks.long()) * classes + pixels.label, cells)
    confusion = torch.bincount(cell.flatten(), minlength=cells + 1)[:-1].reshape(images, classes, classes)
    nll, brier = (
        part.sum((1, 2), dtype=torch.float64).cpu().numpy() for part in (pixels.negative_log_likelihood, pixels.brier)
    )
    return _named(
        pixels.valid.sum((1, 2)).cpu().numpy(),
        nll,
        brier,
        confusion.cpu().numpy(),
        histograms(row, fine, pixels.confidence, pixels.correct, images, FINE_BINS),
        histograms(row, bin_of_log_odds(pixels.log_odds), pixels.confidence, pixels.correct, images, LOG_ODDS_BINS),
        by(0, 1, near & pixels.valid).each(images),
        by(masks.long(), classes, pixels.valid),
        by(pixels.label, classes, pixels.valid),
        _one_vs_rest(pixels, masks),
    )


def _one_vs_rest(pixels: PixelPredictions, masks: torch.Tensor) -> Bins:
    """The probability of every class against whether a pixel is of that class, `(B, C, 10)` each."""
    images, classes = pixels.probabilities.shape[:2]
    valid = pixels.valid[:, None]
    kept = (pixels.probabilities > 1 / BINS) & valid
    image, label, *place = kept.nonzero(as_tuple=True)
    values = pixels.probabilities[kept]
    is_of_class = masks[image, *place] == label
    found = histograms(image * classes + label, bin_of(values, BINS), values, is_of_class, images * classes, BINS)
    labelled = torch.bincount(
        torch.where(pixels.valid, numbered(masks) * classes + masks, images * classes).flatten(),
        minlength=images * classes + 1,
    )[:-1]
    return _with_first_bin(
        found.each(images, classes),
        pixels.valid.sum((1, 2)).cpu().numpy(),
        (pixels.probabilities * valid).sum((2, 3), dtype=torch.float64).cpu().numpy(),
        labelled.reshape(images, classes).cpu().numpy(),
    )


def _with_first_bin(above: Bins, pixels: np.ndarray, probability: np.ndarray, labelled: np.ndarray) -> Bins:
    """Histograms `(B, C, 10)` whose first bin, where most probabilities lie, gets all that is in no other.

    Args:
        above: of the probabilities above the first bin; what it holds below is not counted twice.
        pixels: `(B,)` how many there are.
        probability: `(B, C)` sum of each class's probability.
        labelled: `(B, C)` pixels of each class.
    """
    count, confidence_sum, positive = (part.copy() for part in above.named().values())
    count[..., 0] = pixels[:, None] - count[..., 1:].sum(-1)
    confidence_sum[..., 0] = np.maximum(probability - confidence_sum[..., 1:].sum(-1), 0)
    positive[..., 0] = labelled - positive[..., 1:].sum(-1)
    return Bins(count, confidence_sum, positive)


def _bins(counts: np.ndarray, confidence: np.ndarray) -> Bins:
    """Histograms from counts of wrong and right pixels, `(..., 2, n)`, and sums of confidences, `(..., n)`."""
    return Bins(counts.sum(-2), confidence, counts[..., 1, :])


def _named(
    pixels: np.ndarray,
    loss: np.ndarray,
    brier: np.ndarray,
    confusion: np.ndarray,
    fine: Bins,
    log_odds: Bins,
    boundary: Bins,
    true: Bins,
    predicted: Bins,
    one_vs_rest: Bins,
) -> dict[str, np.ndarray]:
    return {
        "pixels": pixels, "negative_log_likelihood": loss, "brier": brier, "confusion": confusion, **fine.named(),
        **log_odds.named("log_odds_"), **boundary.named("boundary_"), **true.named("true_"),
        **predicted.named("predicted_"), **one_vs_rest.named("one_vs_rest_"),
    }  # fmt: skip
