"""Softmax of logits, and the pixel counts of each image from which every metric follows.

`count_pixels` counts float32 logits on the CPU in one pass compiled by numba, and all others by torch on their own
device. Both count the same pixels in the same bins: those of a softmax in float64. numba computes in float32, and in
float64 where a probability is near the edge of a bin. A new count needs a column in
`columns` and has to be counted in both ways.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from segmentation.classes import VOID
from segmentation.devices import countable
from segmentation.scoring.boundary_iou import contour_counts
from segmentation.scoring.calibration_error import BINS, coarse
from segmentation.scoring.compiled import compiled, on_all_cores
from segmentation.scoring.log_odds import BIN_OF_ODDS, DROPPED_BITS, EDGES, LOG_ODDS_BINS, SMALLEST_ODDS
from segmentation.scoring.logit_checks import check_classes, check_labels, check_types, wrong_label
from segmentation.scoring.reliability import FINE_BINS, Bins, equal_edges, histogram_columns
from segmentation.scoring.resizing import rows_at_size

LANES = 128
"""Pixels in one inner loop; with 150 classes their probabilities take 77 kB."""
IN_A_PRODUCT = 64
"""Softmax denominators, at most 255 each, whose product fits a float64."""
IN_A_STRIP = 2**22
"""Numbers that torch computes at a time: 34 MB in float64, of which a few copies exist at once."""
BESIDE_CLASSES = 16
"""Numbers of each pixel beside its probabilities, such as its bins."""
COPIES = 8
"""Copies of each count on a device, so that its threads seldom add to the same number at once."""
FINE_TO_COARSE = FINE_BINS // BINS
ZERO, ONE = np.float32(0), np.float32(1)
LOWEST = np.finfo(np.float64).min


def columns(classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Columns of an `ImageTable` for the counts of one image, except those of `Reliability` and `Confusion`."""
    return (
        {"pixels": ("u4", ()), "negative_log_likelihood": ("f8", ()), "brier": ("f8", ())}
        | histogram_columns((), LOG_ODDS_BINS, "log_odds_")
        | histogram_columns((), BINS, "boundary_")
        | histogram_columns((classes,), BINS, "true_")
        | histogram_columns((classes,), BINS, "predicted_")
        | histogram_columns((classes,), BINS, "one_vs_rest_")
        | {"contour_intersection": ("u4", (classes,)), "contour_union": ("u4", (classes,))}
    )


LATER_COLUMNS = (
    frozenset(histogram_columns((), LOG_ODDS_BINS, "log_odds_")),
    frozenset({"contour_intersection", "contour_union"}),
)
"""Groups of columns that files of earlier versions lack, together; the metrics that need them are NaN then."""


def count_pixels(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> dict[str, np.ndarray]:
    """Count the non-void pixels of each image.

    Float32 logits on the CPU are counted by numba, logits on CUDA by torch, see `count_strips`. Equal logits have equal
    counts in both; sums of probabilities differ in the last digits. Logits on other devices, which may lack float64,
    are copied to the CPU.

    Args:
        logits: `(B, C, h, w)` floating point, not probabilities; half precision is converted to float32. Where the size
            differs from that of the masks, they are resized to it.
        masks: `(B, H, W)` class indices below `C`, 255 is void.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Arrays `(B, ...)` by the names of `columns`; the fine histogram as `count`, `confidence_sum` and `correct`,
        `(B, 600)` each; and `confusion`, `(B, C, C)`.

    Raises:
        ValueError: a shape, a type or a label is wrong.
    """
    logits, masks, near = countable(logits.detach(), masks, near)
    check_types(logits, masks)
    if logits.device.type == "cpu":
        check_labels(masks, logits.shape[1])
        if logits.dtype != torch.float64:
            return _named(count_images(logits, masks.to(torch.uint8), near))
    return _named(count_strips(logits, masks, near))


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

    on_all_cores(count_image, len(masks))
    return torch.from_numpy(correct).sum()


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
    contour: np.ndarray
    """`(N, 2, C)` int64: intersection and union of the bands along contours, see `contour_counts`. 0 in the counts of
    parts, because a band does not end with a part."""

    @classmethod
    def zeros(cls, parts: int, classes: int) -> "Counts":
        """Counts of no pixels."""
        fine, by_class = (parts, 2, 2, FINE_BINS), (parts, classes, 2, BINS)
        shapes = fine, (parts, 2, LOG_ODDS_BINS), by_class, by_class, by_class
        whole = [np.zeros(shape, np.int64) for shape in shapes]
        sums = [np.zeros((*shape[:-2], shape[-1])) for shape in shapes]
        rest = [np.zeros((parts, classes, classes), np.int64), np.zeros((parts, classes)), np.zeros((parts, 2))]
        contour = np.zeros((parts, 2, classes), np.int64)
        return cls._make([*(array for pair in zip(whole, sums, strict=True) for array in pair), *rest, contour])


def _named(counts: Counts) -> dict[str, np.ndarray]:
    """Arrays by the names of columns."""
    pixels = counts.confusion.sum((1, 2))
    fine = _bins(counts.fine, counts.fine_confidence)
    boundary = Bins(*(coarse(part[:, 1]) for part in fine.named().values()))
    above = _bins(counts.predicted + counts.other, counts.predicted_confidence + counts.other_confidence)
    one_vs_rest = _with_first_bin(above, pixels, counts.probability, counts.confusion.sum(2))
    return {
        "pixels": pixels,
        "negative_log_likelihood": counts.loss_and_brier[:, 0],
        "brier": counts.loss_and_brier[:, 1],
        "confusion": counts.confusion,
        "contour_intersection": counts.contour[:, 0],
        "contour_union": counts.contour[:, 1],
        **Bins(*(part.sum(1) for part in fine.named().values())).named(),
        **_bins(counts.log_odds, counts.log_odds_confidence).named("log_odds_"),
        **boundary.named("boundary_"),
        **_bins(counts.true, counts.true_confidence).named("true_"),
        **_bins(counts.predicted, counts.predicted_confidence).named("predicted_"),
        **one_vs_rest.named("one_vs_rest_"),
    }


def _bins(counts: np.ndarray, confidence: np.ndarray) -> Bins:
    """Histograms from counts of wrong and correct pixels, `(..., 2, n)`, and sums of confidences, `(..., n)`."""
    return Bins(counts.sum(-2), confidence, counts[..., 1, :])


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


def count_strips(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> Counts:
    """Count the pixels of each image on the device of the logits, which has float64, a strip of rows at a time.

    Nothing waits for the device until all counts are copied from it at once. The probabilities of one strip exist at a
    time, so the memory beside the logits hardly depends on the size of the images.

    Args:
        logits: `(B, C, h, w)` floating point.
        masks: `(B, H, W)` class indices below `C`, 255 is void; integers of any type.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Counts of `B` images.

    Raises:
        ValueError: a label is neither below `C` nor void.
    """
    (images, classes), (height, width) = logits.shape[:2], masks.shape[1:]
    possible = (masks == VOID) | ((masks >= 0) & (masks < classes))
    impossible = torch.where(possible, VOID, masks.long()).flatten()
    worst = torch.stack([impossible.amin(), impossible.amax()])
    labels = torch.where(possible, masks, VOID).to(torch.uint8)
    predicted = torch.empty_like(labels)
    totals = _Totals(images, classes, logits.device)
    for band, at_size in rows_at_size(logits, (height, width)):
        for image, rows in _strips(images, band.stop - band.start, width, IN_A_STRIP // (classes + BESIDE_CLASSES)):
            here = image, slice(band.start + rows.start, min(band.start + rows.stop, band.stop))
            strip = at_size[image, :, rows].double()
            predicted[here] = totals.add_strip(image, strip, labels[here], near[here])
    counts, (lowest, highest) = totals.copied(contour_counts(labels, predicted, classes), worst)
    if lowest != VOID or highest != VOID:
        raise ValueError(wrong_label(int(lowest if lowest != VOID else highest), classes))
    return counts


def _strips(images: int, height: int, width: int, pixels: int) -> Iterator[tuple[slice, slice]]:
    """Yield images and rows of parts with about `pixels` pixels: whole images, or rows of one image."""
    rows = min(height, max(1, pixels // width))
    together = max(1, pixels // (height * width))
    for image in range(0, images, together):
        for row in range(0, height, rows):
            yield slice(image, image + together), slice(row, row + rows)


class _Edges(NamedTuple):
    """Inner edges of bins on a device, float64."""

    confidence: torch.Tensor
    probability: torch.Tensor
    log_odds: torch.Tensor


@lru_cache(maxsize=8)
def _edges(device: torch.device) -> _Edges:
    """The edges on a device, copied to it once."""
    return _Edges(equal_edges(FINE_BINS, device), equal_edges(BINS, device), torch.from_numpy(EDGES).to(device))


class _Totals:
    """The counts of a batch, on the device that counts them."""

    def __init__(self, images: int, classes: int, device: torch.device) -> None:
        empty = Counts.zeros(images, classes)
        self.shapes = {name: array.shape for name, array in empty._asdict().items() if name != "contour"}
        self.parts = {
            name: torch.zeros(*array.shape, COPIES, dtype=torch.from_numpy(array).dtype, device=device)
            for name, array in empty._asdict().items() if name != "contour"
        }  # fmt: skip
        self.image = torch.arange(images, device=device)[:, None, None]
        self.edges = _edges(device)

    def add_strip(self, images: slice, logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """Count the pixels of some images in some rows.

        Args:
            images: the images among those of the batch, `b` of them.
            logits: `(b, C, h, w)` float64.
            masks: `(b, h, w)` uint8 class indices, 255 is void.
            near: `(b, h, w)` bool.

        Returns:
            Predicted class of each pixel, `(b, h, w)` uint8; void where the mask is void.
        """
        image, valid = self.image[images], masks != VOID
        highest, top = logits.max(1)  # of equals the first
        # the other classes, relative to the second highest logit: nothing underflows, however sure the model is
        others = logits.scatter(1, top[:, None], -torch.inf)
        second = others.amax(1).clamp(min=LOWEST)
        others.sub_(second[:, None]).exp_()
        total, scale = others.sum(1), (second - highest).exp()
        odds = total * scale
        confidence = 1 / (1 + odds)
        others.mul_((scale * confidence)[:, None])
        truth = torch.where(valid, masks, 0).long()
        missed = others.gather(1, truth[:, None])[:, 0]  # probability of the true class where another is predicted
        correct = top == truth
        loss = odds.log1p() + highest - logits.gather(1, truth[:, None])[:, 0]
        brier = others.square().sum(1) + confidence.square() - 2 * torch.where(correct, confidence, missed) + 1
        for index, values in enumerate((loss, brier)):
            self.parts["loss_and_brier"][images, index, 0] += torch.where(valid, values, 0).sum((1, 2))

        right, weight, confidence = correct.long(), valid.long(), torch.where(valid, confidence, 0)
        fine = torch.bucketize(confidence, self.edges.confidence)
        odds_bin = torch.bucketize(highest - second - total.log(), self.edges.log_odds)
        coarse_bin = fine // FINE_TO_COARSE
        self._add("fine", (image, near.long(), right, fine), weight)
        self._add("fine_confidence", (image, near.long(), fine), confidence)
        self._add("log_odds", (image, right, odds_bin), weight)
        self._add("log_odds_confidence", (image, odds_bin), confidence)
        for name, label in (("true", truth), ("predicted", top)):
            self._add(name, (image, label, right, coarse_bin), weight)
            self._add(f"{name}_confidence", (image, label, coarse_bin), confidence)
        self._add("confusion", (image, truth, top), weight)
        self._add("probability", (image, top), confidence)
        others.masked_fill_(~valid[:, None], 0)
        self.parts["probability"][images, :, 0] += others.sum((2, 3))
        missed_bin = torch.bucketize(missed, self.edges.probability)
        self._add("other", (image, truth, 1, missed_bin), weight * (missed_bin > 0))
        for index in range(1, BINS // 2):  # probabilities of classes other than the predicted one are at most 1/2
            inside = (others > index / BINS) & (others <= (index + 1) / BINS)
            self.parts["other"][images, :, 0, index, 0] += inside.sum((2, 3))
            self.parts["other_confidence"][images, :, index, 0] += torch.where(inside, others, 0).sum((2, 3))
        return torch.where(valid, top, VOID).to(torch.uint8)

    def _add(self, name: str, cell: tuple[torch.Tensor | int, ...], values: torch.Tensor) -> None:
        """Add values `(b, h, w)` to the cells of an array with these indices."""
        index: torch.Tensor | int = 0
        for size, position in zip(self.shapes[name], cell, strict=True):
            index = index * size + position
        index = torch.as_tensor(index).expand(values.shape).flatten()
        copies = torch.arange(index.numel(), device=index.device) % COPIES
        self.parts[name].view(-1).index_add_(0, index * COPIES + copies, values.flatten())

    def copied(self, *further: torch.Tensor) -> tuple[Counts, np.ndarray]:
        """The counts and further int64 tensors, copied from the device together.

        Args:
            further: the contour counts, and one more.
        """
        sums = [part.sum(-1) for part in self.parts.values()]
        as_integers = [each.view(torch.int64) if each.is_floating_point() else each for each in (*sums, *further)]
        numbers = torch.cat([each.flatten() for each in as_integers]).cpu().numpy()
        ends = np.cumsum([each.numel() for each in as_integers])
        parts = [
            part.view(np.float64 if each.is_floating_point() else np.int64).reshape(each.shape)
            for part, each in zip(np.split(numbers, ends[:-1]), (*sums, *further), strict=True)
        ]
        counts = Counts._make(parts[: len(Counts._fields)])
        counts.other[:, :, 0] -= counts.other[:, :, 1]  # the bins of all pixels were counted, then those of the class
        return counts, parts[-1]


def count_images(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> Counts:
    """Count the pixels of each image on as many cores as torch uses.

    Args:
        logits: `(B, C, h, w)` of at most float32 on the CPU, in any memory format.
        masks: `(B, H, W)` uint8 class indices below `C`, 255 is void.
        near: `(B, H, W)` bool, whether a pixel is near a boundary.

    Returns:
        Counts of `B` images.
    """
    images, classes = logits.shape[:2]
    counts, predicted = Counts.zeros(images, classes), torch.empty(masks.shape, dtype=torch.uint8)
    for rows, at_size in rows_at_size(logits, masks.shape[1:]):
        found, predicted[:, rows] = _count_rows(at_size.float(), masks[:, rows], near[:, rows])
        counts = Counts._make(map(np.add, counts, found))
    return counts._replace(contour=contour_counts(masks, predicted, classes).numpy())


def _count_rows(logits: torch.Tensor, masks: torch.Tensor, near: torch.Tensor) -> tuple[Counts, torch.Tensor]:
    """Counts of logits `(B, C, n, W)` of some rows, and the predicted classes `(B, n, W)`; void where masks are."""
    images, classes = logits.shape[:2]
    cuts = -(-torch.get_num_threads() // max(1, images))
    counts, predicted = Counts.zeros(images * cuts, classes), torch.empty(masks.shape, dtype=torch.uint8)
    pixels = (each.flatten(1).view(torch.uint8).numpy() for each in (masks, near, predicted))
    flat, bounds = (logits.flatten(2).numpy(), *pixels), np.linspace(0, masks[0].numel(), cuts + 1).astype(int)
    kernel = _count_kernel()

    def count_part(index: int) -> None:
        image, cut = divmod(index, cuts)
        part = slice(bounds[cut], bounds[cut + 1])
        kernel(*(each[image][..., part] for each in flat), *(part[index] for part in counts[:-1]))

    on_all_cores(count_part, images * cuts)
    return Counts._make(part.reshape(images, cuts, *part.shape[1:]).sum(1) for part in counts), predicted


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


@compiled("i8(f4[:,:], u1[:])")
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


@njit(inline="never")
def _bin(probability: float, bins: int) -> np.uintp:
    """Bin `(a, b]` of a float64, of equal bins, as of `torch.bucketize`; NaN is in the last."""
    last = np.uintp(bins - 1)
    index = np.uintp(probability * bins) if probability < 1.0 else last
    # the product may have been rounded across an edge
    if index > 0 and probability <= np.float64(index) / bins:
        index -= np.uintp(1)
    elif index < last and probability > np.float64(index + np.uintp(1)) / bins:
        index += np.uintp(1)
    return index


@njit(inline="always")
def _near_edge(probability: np.float32, bins: int, error: float) -> bool:
    """Whether a probability may be on the other side of an inner edge of equal bins; NaN may be anywhere."""
    position = np.float64(probability) * bins
    return not (abs(position - np.rint(position)) > bins * error or position > bins - 0.5)


@njit(inline="never")
def _others(logits: np.ndarray, top: np.uintp) -> tuple[float, float]:
    """Second highest of the logits `(C,)`, and the sum of the exponentials of all but the highest relative to it."""
    second, total = LOWEST, 0.0
    for other in range(len(logits)):
        if np.uintp(other) != top and logits[other] > second:
            second = np.float64(logits[other])
    for other in range(len(logits)):
        if np.uintp(other) != top:
            total += np.exp(np.float64(logits[other]) - second)
    return second, total


@njit(inline="never")
def _probability(logits: np.ndarray, top: np.uintp, index: int) -> float:
    """Probability of a class other than the most probable one in float64, as in `count_strips`."""
    second, total = _others(logits, top)
    scale = np.exp(second - np.float64(logits[top]))
    return np.exp(np.float64(logits[index]) - second) * (scale * (1.0 / (1.0 + total * scale)))


@njit(inline="never")
def _exact_bins(logits: np.ndarray, top: np.uintp) -> tuple[np.uintp, np.uintp]:
    """Fine bin of the confidence and bin of its log-odds in float64, as in `count_strips`."""
    second, total = _others(logits, top)
    highest = np.float64(logits[top])
    log_odds = highest - second - np.log(total)
    confidence = 1.0 / (1.0 + total * np.exp(second - highest))
    low, high = 0, len(EDGES)
    while low < high:  # numba takes seconds to compile np.searchsorted; NaN is in the last bin
        middle = (low + high) // 2
        if EDGES[middle] >= log_odds:
            high = middle
        else:
            low = middle + 1
    return _bin(confidence, FINE_BINS), np.uintp(low)


@compiled(
    f"void(f4[:,:], u1[:], u1[:], u1[:], i8[:,:,::1], f8[:,::1], i8[:,::1], f8[::1], {'i8[:,:,::1], f8[:,::1], ' * 3} "
    f"i8[:,::1], f8[::1], f8[::1])"
)
def _count_kernel(
    logits: np.ndarray,
    masks: np.ndarray,
    near: np.ndarray,
    labels: np.ndarray,
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
    """Add the pixels of logits `(C, P)` to the arrays of one part of `Counts`; write the predicted classes `(P,)`.

    The inner loops over pixels have no branches, so that the compiler vectorises them. The counting is not vectorised.
    Where a float32 is too close to an edge of its bin, the bin is that of float64.
    """
    classes, pixels = logits.shape
    # relative error of odds: of the differences of logits, up to ln(2**100), of `_exp`, and of the sum
    ulps = np.int32(classes + 80)
    odds_error = np.float64(ulps) * 2.0**-24
    error = 0.25 * odds_error + 2.0**-23
    other_error = 0.5 * odds_error + 2.0**-23
    lowest_above = np.float32(1 / BINS - other_error)
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
                above[lane] += ONE if value > lowest_above else ZERO
                part += value * counted[lane]
            probability[index] += np.float64(part)
        product = 1.0
        for lane in range(size):
            truth = np.uintp(masks[start + lane])
            if lane % IN_A_PRODUCT == 0:
                loss += np.log(product)
                product = 1.0
            labels[start + lane] = VOID
            if truth == VOID:
                continue
            top, confidence = np.uintp(label[lane]), inverse[lane]
            labels[start + lane] = top
            correct = np.uintp(1 if top == truth else 0)
            close = np.uintp(near[start + lane])
            product *= np.float64(total[lane])
            brier += np.float64(squares[lane]) - 2.0 * np.float64(block[truth, lane]) + 1.0
            is_exact = odds[lane] > SMALLEST_ODDS and not _near_edge(confidence, FINE_BINS, error)
            if is_exact:
                bits = np.float32(odds[lane]).view(np.int32)
                odds_bin = np.uintp(BIN_OF_ODDS[(bits - ulps) >> DROPPED_BITS])
                is_exact = odds_bin == np.uintp(BIN_OF_ODDS[(bits + ulps) >> DROPPED_BITS])
                fine_bin = min(np.uintp(confidence * np.float32(FINE_BINS)), np.uintp(FINE_BINS - 1))
            if not is_exact:
                fine_bin, odds_bin = _exact_bins(logits[:, start + lane], top)
            coarse_bin = fine_bin // np.uintp(FINE_TO_COARSE)
            fine[close, correct, fine_bin] += 1
            fine_confidence[close, fine_bin] += np.float64(confidence)
            log_odds[correct, odds_bin] += 1
            log_odds_confidence[odds_bin] += np.float64(confidence)
            true[truth, correct, coarse_bin] += 1
            true_confidence[truth, coarse_bin] += np.float64(confidence)
            predicted[top, correct, coarse_bin] += 1
            predicted_confidence[top, coarse_bin] += np.float64(confidence)
            confusion[truth, top] += 1
            if above[lane] > (ONE if confidence > lowest_above else ZERO):
                for index in range(classes):
                    value = block[index, lane]
                    if value > lowest_above and np.uintp(index) != top:
                        if _near_edge(value, BINS, other_error):
                            coarse_bin = _bin(_probability(logits[:, start + lane], top, index), BINS)
                        else:
                            coarse_bin = np.uintp(value * np.float32(BINS))
                        if coarse_bin > 0:
                            is_of_class = np.uintp(1 if np.uintp(index) == truth else 0)
                            other[index, is_of_class, coarse_bin] += 1
                            other_confidence[index, coarse_bin] += np.float64(value)
        loss += np.log(product)
    loss_and_brier[0], loss_and_brier[1] = loss, brier
