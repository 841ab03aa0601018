"""What `counting` counts, in one compiled pass over an image that stays in the processor's cache."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from segmentation.classes import VOID
from segmentation.scoring.calibration_error import BINS
from segmentation.scoring.compiling import compiled
from segmentation.scoring.log_odds import BIN_OF_ODDS, DROPPED_BITS, FIRST, LOG_ODDS_BINS, SCALE, SMALLEST_ODDS, STEP
from segmentation.scoring.reliability import FINE_BINS

LANES = 128
"""Pixels that are worked on together; with 150 classes their probabilities take 77 kB."""
IN_A_PRODUCT = 64
"""Softmax denominators, at most 255 each, whose product a float64 holds."""
FINE_TO_COARSE = FINE_BINS // BINS
EDGES = (np.arange(1, FINE_BINS) / FINE_BINS).astype(np.float32)
"""Inner edges of the fine bins, as `reliability.bin_of` has them."""
ZERO, ONE = np.float32(0), np.float32(1)
FIRST_EDGE = EDGES[FINE_TO_COARSE - 1]


class Counts(NamedTuple):
    """Counts of `N` parts of images, `C` classes; the second axis of whole numbers tells wrong pixels from right."""

    fine: np.ndarray
    """`(N, 2, 2, 600)` int64: away from boundaries and near them, wrong and right, fine bin of the confidence."""
    fine_confidence: np.ndarray
    """`(N, 2, 600)` float64: sums of confidences, likewise."""
    log_odds: np.ndarray
    """`(N, 2, 1000)` int64: wrong and right, bin of the confidence's log-odds."""
    log_odds_confidence: np.ndarray
    """`(N, 1000)` float64: sums of confidences, likewise."""
    true: np.ndarray
    """`(N, C, 2, 10)` int64, by true class."""
    true_confidence: np.ndarray
    predicted: np.ndarray
    """`(N, C, 2, 10)` int64, by predicted class."""
    predicted_confidence: np.ndarray
    other: np.ndarray
    """`(N, C, 2, 10)` int64: probabilities above the first bin of classes that are not the predicted one, by whether
    the pixel is of that class."""
    other_confidence: np.ndarray
    confusion: np.ndarray
    """`(N, C, C)` int64: true class, predicted class."""
    probability: np.ndarray
    """`(N, C)` float64: sum of each class's probability."""
    loss_and_brier: np.ndarray
    """`(N, 2)` float64: sums of the negative log-likelihood and of the Brier score."""

    @classmethod
    def zeros(cls, parts: int, classes: int) -> "Counts":
        """Nothing counted yet."""
        fine, by_class = (parts, 2, 2, FINE_BINS), (parts, classes, 2, BINS)
        shapes = fine, (parts, 2, LOG_ODDS_BINS), by_class, by_class, by_class
        whole = [np.zeros(shape, np.int64) for shape in shapes]
        sums = [np.zeros((*shape[:-2], shape[-1])) for shape in shapes]
        rest = [np.zeros((parts, classes, classes), np.int64), np.zeros((parts, classes)), np.zeros((parts, 2))]
        return cls._make([*(array for pair in zip(whole, sums, strict=True) for array in pair), *rest])


def count_images(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> Counts:
    """Count the pixels of each image, on as many cores as torch uses.

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
    bounds = np.linspace(0, flat[1].shape[1], cuts + 1).astype(int)

    def count_part(place: int) -> None:
        image, cut = divmod(place, cuts)
        pixels = slice(bounds[cut], bounds[cut + 1])
        inputs = flat[0][image, :, pixels], *(part[image, pixels] for part in flat[1:])
        _count(*inputs, *(part[place] for part in counts))

    _on_all_cores(count_part, images * cuts)
    return Counts._make(part.reshape(images, cuts, *part.shape[1:]).sum(1) for part in counts)


def count_right(logits: torch.Tensor, masks: torch.Tensor) -> int:
    """How many pixels have their true class for the most probable one, the lowest of equals.

    Args:
        logits: `(B, C, H, W)` float32 on the CPU, in any memory format.
        masks: `(B, H, W)` uint8, 255 is void.
    """
    right = np.zeros(len(masks), np.int64)
    flat, labels = logits.detach().flatten(2).numpy(), masks.flatten(1).numpy()

    def count_image(image: int) -> None:
        right[image] = _right(flat[image], labels[image])

    _on_all_cores(count_image, len(masks))
    return int(right.sum())


def _on_all_cores(work: Callable[[int], None], places: int) -> None:
    """Do a piece of work at each place, on as many cores as torch uses.

    Each thread gets its share at once, and this one works, too: waking a thread takes as long as counting thousands of
    pixels.
    """
    threads = torch.get_num_threads()
    bounds = np.linspace(0, places, threads + 1).astype(int).tolist()

    def work_on_share(number: int) -> None:
        for place in range(bounds[number], bounds[number + 1]):
            work(place)

    others = [_pool(threads).submit(work_on_share, number) for number in range(1, threads)]
    work_on_share(0)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@njit(inline="always")
def _most_probable(logits: np.ndarray, block: np.ndarray, highest: np.ndarray, label: np.ndarray) -> None:
    """Copy logits `(C, P)` into the beginning of a block `(C, LANES)`; find the highest and its lowest index."""
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


@compiled("i8(f4[:,:], u1[:])")
def _right(logits: np.ndarray, masks: np.ndarray) -> int:
    """Pixels of logits `(C, P)` whose highest is that of their class."""
    classes, pixels = logits.shape
    block = np.zeros((classes, LANES), np.float32)
    highest, label = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    right = 0
    for start in range(0, pixels, LANES):
        size = min(LANES, pixels - start)
        _most_probable(logits[:, start : start + size], block, highest, label)
        for lane in range(size):
            right += 1 if label[lane] == np.float32(masks[start + lane]) else 0
    return right


@njit(inline="always")
def _exp(x: np.float32) -> np.float32:
    """e to the power x for x up to 0, within 2 units in the last place; NaN stays NaN.

    Cody and Waite's reduction to [-ln(2)/2, ln(2)/2] and a polynomial, as in Moshier's Cephes library, since a call of
    the C library's would take one value at a time.
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
    """`reliability.bin_of`, for a number of bins that divides the fine ones; NaN is in the last."""
    last, width = np.uintp(bins - 1), np.uintp(FINE_BINS // bins)
    place = np.uintp(confidence * np.float32(bins)) if confidence < ONE else last
    # the product may have been rounded across an edge
    if place > 0 and confidence <= EDGES[place * width - np.uintp(1)]:
        place -= np.uintp(1)
    elif place < last and confidence > EDGES[place * width + width - np.uintp(1)]:
        place += np.uintp(1)
    return place


@njit(inline="always")
def _bin_of_log_odds(odds: np.float32, logits: np.ndarray, label: np.uintp) -> np.uintp:
    """`segmentation.scoring.log_odds.bin_of_log_odds` of one pixel, from the sum of the other classes' exponentials.

    Where they underflow, from the logits `(C,)` themselves; NaN is in the last bin.
    """
    if odds >= SMALLEST_ODDS:
        return np.uintp(BIN_OF_ODDS[np.float32(odds).view(np.int32) >> DROPPED_BITS])
    second = -np.inf
    for index in range(len(logits)):
        if np.uintp(index) != label and logits[index] > second:
            second = np.float64(logits[index])
    total = 0.0
    for index in range(len(logits)):
        if np.uintp(index) != label:
            total += np.exp(np.float64(logits[index]) - second)
    log_odds = np.float64(logits[label]) - second - np.log(total)
    place = (np.arcsinh(log_odds / SCALE) - FIRST) / STEP
    return np.uintp(place) if place < LOG_ODDS_BINS else np.uintp(LOG_ODDS_BINS - 1)


@compiled(
    f"void(f4[:,:], u1[:], u1[:], i8[:,:,::1], f8[:,::1], i8[:,::1], f8[::1], {'i8[:,:,::1], f8[:,::1], ' * 3} "
    f"i8[:,::1], f8[::1], f8[::1])"
)
def _count(
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
    """Count the pixels of logits `(C, P)` into the arrays of one part of `Counts`.

    Inner loops run over pixels, without branches, so that they become vector instructions; counting itself cannot.
    """
    classes, pixels = logits.shape
    # of one piece: where pieces lie beside each other is chance, and decides whether a load waits for a store
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
            found, confidence = np.uintp(label[lane]), inverse[lane]
            right = np.uintp(1 if found == truth else 0)
            close = np.uintp(near[start + lane])
            place = _bin(confidence, FINE_BINS)
            coarse = place // np.uintp(FINE_TO_COARSE)
            product *= np.float64(total[lane])
            brier += np.float64(squares[lane]) - 2.0 * np.float64(block[truth, lane]) + 1.0
            fine[close, right, place] += 1
            fine_confidence[close, place] += np.float64(confidence)
            place = _bin_of_log_odds(odds[lane], logits[:, start + lane], found)
            log_odds[right, place] += 1
            log_odds_confidence[place] += np.float64(confidence)
            true[truth, right, coarse] += 1
            true_confidence[truth, coarse] += np.float64(confidence)
            predicted[found, right, coarse] += 1
            predicted_confidence[found, coarse] += np.float64(confidence)
            confusion[truth, found] += 1
            if above[lane] > (ONE if confidence > FIRST_EDGE else ZERO):
                for index in range(classes):
                    value = block[index, lane]
                    if value > FIRST_EDGE and np.uintp(index) != found:
                        is_of_class = np.uintp(1 if np.uintp(index) == truth else 0)
                        coarse = _bin(value, BINS)
                        other[index, is_of_class, coarse] += 1
                        other_confidence[index, coarse] += np.float64(value)
        loss += np.log(product)
    loss_and_brier[0], loss_and_brier[1] = loss, brier
