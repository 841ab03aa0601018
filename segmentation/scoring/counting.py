"""Pixel counts of each image, from which every metric follows.

`count_pixels` counts float32 logits on the CPU in one pass compiled by numba, and all others by torch. Both follow the
same definitions. A new count needs a column in `columns` and has to be counted in both ways.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import config, njit
from numba.misc.appdirs import AppDirs

from segmentation.classes import VOID
from segmentation.devices import countable
from segmentation.scoring.calibration_error import BINS, coarse
from segmentation.scoring.log_odds import (
    BIN_OF_ODDS,
    DROPPED_BITS,
    FIRST,
    LOG_ODDS_BINS,
    SCALE,
    SMALLEST_ODDS,
    STEP,
    bin_of_log_odds,
)
from segmentation.scoring.reliability import FINE_BINS, Bins, bin_of, histogram_columns, histograms, numbered
from segmentation.scoring.softmax import PixelPredictions, check_classes, check_shapes, pixel_predictions

# numba's user-wide folder: by default it would write the machine code beside this file
config.CACHE_DIR = config.CACHE_DIR or AppDirs("numba", appauthor=False).user_cache_dir  # type: ignore[attr-defined]

LANES = 128
"""Pixels in one inner loop; with 150 classes their probabilities take 77 kB."""
IN_A_PRODUCT = 64
"""Softmax denominators, at most 255 each, whose product fits a float64."""
FINE_TO_COARSE = FINE_BINS // BINS
EDGES = (np.arange(1, FINE_BINS) / FINE_BINS).astype(np.float32)
"""Inner edges of the fine bins, as in `reliability.bin_of`."""
ZERO, ONE = np.float32(0), np.float32(1)
FIRST_EDGE = EDGES[FINE_TO_COARSE - 1]


def columns(classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Columns of an `ImageTable` for the counts of one image, except those of `Reliability` and `Confusion`."""
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

    Float32 logits on the CPU are counted by numba, logits on CUDA by torch. Probabilities differ in the last digits
    between the two. Logits on other devices, which may lack float64, are copied to the CPU.

    Args:
        logits: `(B, C, H, W)` floating point, not probabilities; half precision is converted to float32.
        masks: `(B, H, W)` class indices below `C`, 255 is void.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Arrays `(B, ...)` by the names of `columns`; the fine histogram as `count`, `confidence_sum` and `correct`,
        `(B, 600)` each; and `confusion`, `(B, C, C)`.

    Raises:
        ValueError: a shape, a type or a label is wrong.
    """
    logits, masks, near = countable(logits, masks, near)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        check_shapes(logits, masks)
        return _by_numba(logits, masks.to(torch.uint8), near)
    return _by_torch(logits, masks, near)


def count_correct(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Number of pixels whose most probable class, the lowest of equals, is the true one; void is never correct.

    The number is an int64 scalar on the device of the logits: nothing waits for it.

    Args:
        logits: `(B, C, H, W)` floating point, at least two classes.
        masks: `(B, H, W)` uint8 class indices, 255 is void; on the same device.

    Raises:
        ValueError: there is a single class.
    """
    check_classes(logits)
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return (logits.detach().max(1).indices == masks).sum()
    correct = np.zeros(len(masks), np.int64)
    flat, labels, kernel = logits.detach().flatten(2).numpy(), masks.flatten(1).numpy(), _correct_kernel()

    def count_image(image: int) -> None:
        correct[image] = kernel(flat[image], labels[image])

    _on_all_cores(count_image, len(masks))
    return torch.from_numpy(correct).sum()


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
    """Histograms `(B, C, 10)` of each class's probability, in which a pixel is correct if it is of that class."""
    images, classes = pixels.probabilities.shape[:2]
    valid = pixels.valid[:, None]
    kept = (pixels.probabilities > 1 / BINS) & valid
    image, label, *position = kept.nonzero(as_tuple=True)
    values = pixels.probabilities[kept]
    is_of_class = masks[image, *position] == label
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
    """Histograms `(B, C, 10)` whose first bin, in which most probabilities lie, is the total minus the other bins.

    Args:
        above: histograms of the probabilities above the first bin; their first bin is ignored.
        pixels: `(B,)` number of pixels.
        probability: `(B, C)` sum of each class's probability.
        labelled: `(B, C)` pixels of each class.
    """
    count, confidence_sum, positive = (part.copy() for part in above.named().values())
    count[..., 0] = pixels[:, None] - count[..., 1:].sum(-1)
    confidence_sum[..., 0] = np.maximum(probability - confidence_sum[..., 1:].sum(-1), 0)
    positive[..., 0] = labelled - positive[..., 1:].sum(-1)
    return Bins(count, confidence_sum, positive)


def _bins(counts: np.ndarray, confidence: np.ndarray) -> Bins:
    """Histograms from counts of wrong and correct pixels, `(..., 2, n)`, and sums of confidences, `(..., n)`."""
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


class Counts(NamedTuple):
    """Counts of `N` parts of images with `C` classes. The axis of length 2 separates wrong from correct pixels."""

    fine: np.ndarray
    """`(N, 2, 2, 600)` int64: away from boundaries and near them, wrong and correct, fine bin of the confidence."""
    fine_confidence: np.ndarray
    """`(N, 2, 600)` float64: sums of confidences of the same bins."""
    log_odds: np.ndarray
    """`(N, 2, 1000)` int64: wrong and correct, bin of the confidence's log-odds."""
    log_odds_confidence: np.ndarray
    """`(N, 1000)` float64: sums of confidences of the same bins."""
    true: np.ndarray
    """`(N, C, 2, 10)` int64, by true class."""
    true_confidence: np.ndarray
    predicted: np.ndarray
    """`(N, C, 2, 10)` int64, by predicted class."""
    predicted_confidence: np.ndarray
    other: np.ndarray
    """`(N, C, 2, 10)` int64: probabilities above the first bin of classes other than the predicted one, by whether the
    pixel is of that class."""
    other_confidence: np.ndarray
    confusion: np.ndarray
    """`(N, C, C)` int64: true class, predicted class."""
    probability: np.ndarray
    """`(N, C)` float64: sum of each class's probability."""
    loss_and_brier: np.ndarray
    """`(N, 2)` float64: sums of the negative log-likelihood and of the Brier score."""

    @classmethod
    def zeros(cls, parts: int, classes: int) -> "Counts":
        """Counts of no pixels."""
        fine, by_class = (parts, 2, 2, FINE_BINS), (parts, classes, 2, BINS)
        shapes = fine, (parts, 2, LOG_ODDS_BINS), by_class, by_class, by_class
        whole = [np.zeros(shape, np.int64) for shape in shapes]
        sums = [np.zeros((*shape[:-2], shape[-1])) for shape in shapes]
        rest = [np.zeros((parts, classes, classes), np.int64), np.zeros((parts, classes)), np.zeros((parts, 2))]
        return cls._make([*(array for pair in zip(whole, sums, strict=True) for array in pair), *rest])


def _by_numba(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> dict[str, np.ndarray]:
    counts = count_images(logits, masks, near)
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


def count_images(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> Counts:
    """Count the pixels of each image on as many cores as torch uses.

    Args:
        logits: `(B, C, H, W)` float32 on the CPU, in any memory format.
        masks: `(B, H, W)` uint8 class indices below `C`, 255 is void.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Counts of `B` images.
    """
    images, classes = logits.shape[:2]
    cuts = -(-torch.get_num_threads() // max(1, images))
    counts = Counts.zeros(images * cuts, classes)
    flat = logits.detach().flatten(2).numpy(), masks.flatten(1).numpy(), near.flatten(1).view(torch.uint8).numpy()
    bounds, kernel = np.linspace(0, flat[1].shape[1], cuts + 1).astype(int), _count_kernel()

    def count_part(index: int) -> None:
        image, cut = divmod(index, cuts)
        pixels = slice(bounds[cut], bounds[cut + 1])
        inputs = flat[0][image, :, pixels], *(part[image, pixels] for part in flat[1:])
        kernel(*inputs, *(part[index] for part in counts))

    _on_all_cores(count_part, images * cuts)
    return Counts._make(part.reshape(images, cuts, *part.shape[1:]).sum(1) for part in counts)


def _on_all_cores(work: Callable[[int], None], count: int) -> None:
    """Call `work` with 0, 1, ..., `count` - 1 on as many cores as torch uses.

    Each thread, including the calling one, gets one contiguous range, because waking a thread takes as long as counting
    thousands of pixels.
    """
    threads = torch.get_num_threads()
    bounds = np.linspace(0, count, threads + 1).astype(int).tolist()

    def work_on_range(thread: int) -> None:
        for index in range(bounds[thread], bounds[thread + 1]):
            work(index)

    others = [_pool(threads).submit(work_on_range, thread) for thread in range(1, threads)]
    work_on_range(0)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[[], Callable[..., Any]]]:
    """Decorator that turns a function into a getter of its machine code, which is compiled at the first call.

    numba stores the code on disk for the next process.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}

    def decorate(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        @lru_cache(maxsize=1)
        def machine_code() -> Callable[..., Any]:
            try:
                return njit(signature, cache=True, **options)(function)
            except RuntimeError:  # numba finds no folder to write to
                return njit(signature, **options)(function)

        return machine_code

    return decorate


@njit(inline="always")
def _most_probable(logits: np.ndarray, block: np.ndarray, highest: np.ndarray, label: np.ndarray) -> None:
    """Copy logits `(C, P)` into the first `P` lanes of `block`; find the highest logit, of equals the first."""
    classes, pixels = logits.shape
    for index in range(classes):
        for lane in range(pixels):
            block[index, lane] = logits[index, lane]
    for lane in range(LANES):
        highest[lane], label[lane] = block[0, lane], ZERO
    for index in range(1, classes):
        number = np.float32(index)
        for lane in range(LANES):
            value, top, best = block[index, lane], highest[lane], label[lane]
            label[lane] = number if value > top else best
            highest[lane] = value if value > top else top


@_compiled("i8(f4[:,:], u1[:])")
def _correct_kernel(logits: np.ndarray, masks: np.ndarray) -> int:
    """Number of pixels of logits `(C, P)` whose highest logit is that of the true class."""
    classes, pixels = logits.shape
    block = np.zeros((classes, LANES), np.float32)
    highest, label = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    correct = 0
    for start in range(0, pixels, LANES):
        size = min(LANES, pixels - start)
        _most_probable(logits[:, start : start + size], block, highest, label)
        for lane in range(size):
            correct += 1 if label[lane] == np.float32(masks[start + lane]) else 0
    return correct


@njit(inline="always")
def _exp(x: np.float32) -> np.float32:
    """e to the power of x for x <= 0, within 2 units in the last place; NaN stays NaN.

    Cody and Waite's reduction to [-ln(2)/2, ln(2)/2] and a polynomial, as in Moshier's Cephes library. The C library's
    function is not vectorised.
    """
    x = np.float32(-87.3) if x < np.float32(-87.3) else x
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + ONE
    return p * np.int32((n + np.float32(127)) * np.float32(2**23)).view(np.float32)


@njit(inline="always")
def _bin(confidence: np.float32, bins: int) -> np.uintp:
    """`reliability.bin_of` for a number of bins that divides `FINE_BINS`; NaN is in the last bin."""
    last, width = np.uintp(bins - 1), np.uintp(FINE_BINS // bins)
    index = np.uintp(confidence * np.float32(bins)) if confidence < ONE else last
    # the product may have been rounded across an edge
    if index > 0 and confidence <= EDGES[index * width - np.uintp(1)]:
        index -= np.uintp(1)
    elif index < last and confidence > EDGES[index * width + width - np.uintp(1)]:
        index += np.uintp(1)
    return index


@njit(inline="always")
def _bin_of_log_odds(odds: np.float32, logits: np.ndarray, label: np.uintp) -> np.uintp:
    """`log_odds.bin_of_log_odds` of one pixel from the sum of the other classes' exponentials; NaN is in the last bin.

    Where the exponentials underflow, the bin is computed from the logits `(C,)`.
    """
    if odds >= SMALLEST_ODDS:
        return np.uintp(BIN_OF_ODDS[np.float32(odds).view(np.int32) >> DROPPED_BITS])
    second = -np.inf
    for other in range(len(logits)):
        if np.uintp(other) != label and logits[other] > second:
            second = np.float64(logits[other])
    total = 0.0
    for other in range(len(logits)):
        if np.uintp(other) != label:
            total += np.exp(np.float64(logits[other]) - second)
    log_odds = np.float64(logits[label]) - second - np.log(total)
    index = (np.arcsinh(log_odds / SCALE) - FIRST) / STEP
    return np.uintp(index) if index < LOG_ODDS_BINS else np.uintp(LOG_ODDS_BINS - 1)


@_compiled(
    f"void(f4[:,:], u1[:], u1[:], i8[:,:,::1], f8[:,::1], i8[:,::1], f8[::1], {'i8[:,:,::1], f8[:,::1], ' * 3} "
    f"i8[:,::1], f8[::1], f8[::1])"
)
def _count_kernel(
    logits: np.ndarray,
    masks: np.ndarray,
    near: np.ndarray,
    fine: np.ndarray,
    fine_confidence: np.ndarray,
    log_odds: np.ndarray,
    log_odds_confidence: np.ndarray,
    true: np.ndarray,
    true_confidence: np.ndarray,
    predicted: np.ndarray,
    predicted_confidence: np.ndarray,
    other: np.ndarray,
    other_confidence: np.ndarray,
    confusion: np.ndarray,
    probability: np.ndarray,
    loss_and_brier: np.ndarray,
) -> None:
    """Add the pixels of logits `(C, P)` to the arrays of one part of `Counts`.

    The inner loops over pixels have no branches, so that the compiler vectorises them. The counting is not vectorised.
    """
    classes, pixels = logits.shape
    # one allocation, because the relative addresses of several decide whether loads wait for stores
    rows = np.zeros((classes + 8, LANES), np.float32)
    block, highest, label = rows[:classes], rows[classes], rows[classes + 1]
    total, inverse, squares = rows[classes + 2], rows[classes + 3], rows[classes + 4]
    above, counted, odds = rows[classes + 5], rows[classes + 6], rows[classes + 7]
    loss = brier = 0.0
    for start in range(0, pixels, LANES):
        size = min(LANES, pixels - start)
        _most_probable(logits[:, start : start + size], block, highest, label)
        for lane in range(LANES):
            odds[lane] = squares[lane] = above[lane] = counted[lane] = ZERO
        for lane in range(size):
            if masks[start + lane] != VOID:
                counted[lane] = ONE
                loss -= np.float64(block[masks[start + lane], lane] - highest[lane])
        for index in range(classes):
            number = np.float32(index)
            for lane in range(LANES):
                value = _exp(block[index, lane] - highest[lane])
                block[index, lane] = value
                odds[lane] += ZERO if label[lane] == number and value == ONE else value
        for lane in range(LANES):
            total[lane] = ONE + odds[lane]
            inverse[lane] = ONE / total[lane]
        for index in range(classes):
            part = ZERO
            for lane in range(LANES):
                value = block[index, lane] * inverse[lane]
                block[index, lane] = value
                squares[lane] += value * value
                above[lane] += ONE if value > FIRST_EDGE else ZERO
                part += value * counted[lane]
            probability[index] += np.float64(part)
        product = 1.0
        for lane in range(size):
            truth = np.uintp(masks[start + lane])
            if lane % IN_A_PRODUCT == 0:
                loss += np.log(product)
                product = 1.0
            if truth == VOID:
                continue
            top, confidence = np.uintp(label[lane]), inverse[lane]
            correct = np.uintp(1 if top == truth else 0)
            close = np.uintp(near[start + lane])
            fine_bin = _bin(confidence, FINE_BINS)
            coarse_bin = fine_bin // np.uintp(FINE_TO_COARSE)
            product *= np.float64(total[lane])
            brier += np.float64(squares[lane]) - 2.0 * np.float64(block[truth, lane]) + 1.0
            fine[close, correct, fine_bin] += 1
            fine_confidence[close, fine_bin] += np.float64(confidence)
            odds_bin = _bin_of_log_odds(odds[lane], logits[:, start + lane], top)
            log_odds[correct, odds_bin] += 1
            log_odds_confidence[odds_bin] += np.float64(confidence)
            true[truth, correct, coarse_bin] += 1
            true_confidence[truth, coarse_bin] += np.float64(confidence)
            predicted[top, correct, coarse_bin] += 1
            predicted_confidence[top, coarse_bin] += np.float64(confidence)
            confusion[truth, top] += 1
            if above[lane] > (ONE if confidence > FIRST_EDGE else ZERO):
                for index in range(classes):
                    value = block[index, lane]
                    if value > FIRST_EDGE and np.uintp(index) != top:
                        is_of_class = np.uintp(1 if np.uintp(index) == truth else 0)
                        coarse_bin = _bin(value, BINS)
                        other[index, is_of_class, coarse_bin] += 1
                        other_confidence[index, coarse_bin] += np.float64(value)
        loss += np.log(product)
    loss_and_brier[0], loss_and_brier[1] = loss, brier
