"""ECE and its histograms compared with calculations by hand, a loop and torchmetrics."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from segmentation.scoring.reliability import FINE_BINS, Reliability, bin_of


def batch(seed: int = 0, images: int = 6, classes: int = 5, side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2.5 * torch.randn(images, classes, side, side, generator=random)
    labels = torch.randint(0, classes, (images, side, side), generator=random)
    easy = torch.rand(labels.shape, generator=random) < 0.5
    labels = torch.where(easy, logits.argmax(1), labels)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return logits, labels


def brute_force_ece(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    """The definition, one pixel at a time, with float32 edges."""
    edges = [np.float32(k / bins) for k in range(bins + 1)]
    table = [[0, 0.0, 0] for _ in range(bins)]
    probabilities = logits.float().softmax(1)
    for image, row, column in np.argwhere(labels.numpy() != 255):
        p = probabilities[image, :, row, column].numpy()
        confidence = p.max()
        position = next(k for k in range(bins) if confidence <= edges[k + 1] or k == bins - 1)
        table[position][0] += 1
        table[position][1] += float(confidence)
        table[position][2] += int(p.argmax() == labels[image, row, column].item())
    pixels = sum(count for count, _, _ in table)
    return sum(abs(right - total) for _, total, right in table) / pixels


def reliability_of(logits: torch.Tensor, labels: torch.Tensor, sizes: tuple[int, ...] = (6,)) -> Reliability:
    reliability = Reliability()
    for part, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
        reliability.update(part, truth)
    return reliability


def columns(reliability: Reliability) -> dict[str, np.ndarray]:
    return {name: reliability.table.column(name) for name in ("count", "confidence_sum", "correct")}


def of_confidences(confidences: list[float], correct: list[bool], dtype: torch.dtype = torch.float32) -> Reliability:
    reliability = Reliability()
    values = torch.tensor([confidences], dtype=dtype)
    reliability.add_confidences(values, torch.tensor([correct]), torch.ones_like(values, dtype=torch.bool))
    return reliability


@pytest.mark.parametrize("bins", [1, 10, 12, 15, 20, 25, 30])
def test_ece_equals_the_definition_pixel_by_pixel(bins: int) -> None:
    logits, labels = batch()
    assert reliability_of(logits, labels).ece(bins) == pytest.approx(brute_force_ece(logits, labels, bins), abs=1e-7)


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_ece_and_mce_equal_torchmetrics_away_from_the_edges(bins: int, seed: int) -> None:
    logits, labels = batch(seed)
    reliability = reliability_of(logits, labels)
    for norm, ours in (("l1", reliability.ece(bins)), ("max", reliability.mce(bins))):
        theirs = multiclass_calibration_error(logits.softmax(1), labels, 5, bins, norm, ignore_index=255)
        assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_ece_by_hand() -> None:
    # bin (0.5, 0.6]: 0.55 right, 0.58 wrong; bin (0.9, 1]: 0.95 and 1.0, both right
    reliability = of_confidences([0.55, 0.58, 0.95, 1.0], [True, False, True, True])
    expected = (abs(1 - 1.13) + abs(2 - 1.95)) / 4
    assert reliability.ece() == pytest.approx(expected, abs=1e-7)
    assert reliability.mce() == pytest.approx(0.13 / 2, abs=1e-7)
    bins = reliability.bins()
    assert bins.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert bins.accuracy[[5, 9]].tolist() == [0.5, 1.0]
    assert bins.signed_gap() == pytest.approx((3 - 3.08) / 4, abs=1e-7)
    assert math.isnan(bins.accuracy[0])
    assert bins.fraction.sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", range(11))
def test_an_edge_belongs_to_the_bin_below_it(k: int, dtype: torch.dtype) -> None:
    edge = torch.tensor(k / 10, dtype=dtype)
    below = torch.nextafter(edge, torch.tensor(0.0, dtype=dtype)) if k else edge
    above = torch.nextafter(edge, torch.tensor(1.0, dtype=dtype)) if k < 10 else edge
    indices = [int(of_confidences([v.item()], [True], dtype).bins().count.argmax()) for v in (below, edge, above)]
    assert indices == [max(k - 1, 0), max(k - 1, 0), min(k, 9)]


@pytest.mark.parametrize("bins", [10, 12, 15, 20, 24, 25, 30, 600])
def test_fine_bins_add_up_exactly_to_coarse_ones(bins: int) -> None:
    values = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    counts = of_confidences(values.tolist(), [True] * len(values)).bins(bins).count
    edges = [np.float32(float(Fraction(k, bins))) for k in range(bins + 1)]
    expected = [int(((values.numpy() > edges[k]) & (values.numpy() <= edges[k + 1])).sum()) for k in range(bins)]
    expected[0] += int((values == 0).sum())
    assert counts.tolist() == expected


def test_confidence_1_is_in_the_last_bin() -> None:
    logits = torch.zeros(1, 21, 2, 2)
    logits[:, 4] = 60.0
    labels = torch.tensor([[[4, 4], [4, 0]]])
    reliability = reliability_of(logits, labels, (1,))
    assert reliability.bins().count.tolist() == [0] * 9 + [4]
    assert reliability.ece() == 0.25


def test_void_pixels_are_not_counted() -> None:
    logits, labels = batch()
    changed = torch.where((labels == 255)[:, None], 10 * torch.randn_like(logits), logits)
    assert reliability_of(changed, labels).ece() == reliability_of(logits, labels).ece()
    assert reliability_of(logits, labels).bins().count.sum() == (labels != 255).sum()


def test_a_repeated_image_counts_once() -> None:
    """A distributed sampler repeats images to fill the last batch."""
    logits, labels = batch()
    first, second = Reliability(), Reliability()
    first.update(logits[[4, 0, 2]], labels[[4, 0, 2]], [4, 0, 2])
    second.update(logits[[1, 3, 5, 0]], labels[[1, 3, 5, 0]], [1, 3, 5, 0])
    second.update(logits[[1]], labels[[1]], [1])
    first.merge(second)
    whole = reliability_of(logits, labels)
    assert len(first) == 6
    assert first.ece() == pytest.approx(whole.ece(), abs=1e-12)
    for name, values in columns(whole).items():
        np.testing.assert_array_equal(columns(first)[name], values)


def test_an_all_void_batch_adds_an_empty_image_and_alone_has_no_ece() -> None:
    logits, labels = batch()
    void = Reliability()
    void.update(logits, torch.full_like(labels, 255))
    assert len(void) == 6
    assert math.isnan(void.ece())
    assert math.isnan(void.mce())
    both = reliability_of(logits, labels)
    expected = both.ece()
    both.merge(void)
    assert both.ece() == expected


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1), (3, 3)])
def test_any_split_into_batches_gives_the_same_histograms(sizes: tuple[int, ...]) -> None:
    logits, labels = batch()
    whole, parts = columns(reliability_of(logits, labels)), columns(reliability_of(logits, labels, sizes))
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_merging_parts_equals_one_pass_and_images_keep_their_order() -> None:
    logits, labels = batch()
    first, second = reliability_of(logits[:2], labels[:2], (2,)), reliability_of(logits[2:], labels[2:], (4,))
    first.merge(second)
    whole = reliability_of(logits, labels)
    assert first.ece() == whole.ece()
    np.testing.assert_array_equal(first.table.column("count"), whole.table.column("count"))


def test_order_of_images_and_pixels_does_not_change_the_ece() -> None:
    logits, labels = batch()
    expected = reliability_of(logits, labels).ece()
    assert reliability_of(logits.flip(0), labels.flip(0)).ece() == pytest.approx(expected, abs=1e-12)
    # torch's vectorised exp may round a pixel differently by its position in memory, by one float32 unit
    assert reliability_of(logits.flip(2, 3), labels.flip(1, 2)).ece() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_the_ece_of_the_same_values_in_float32(dtype: torch.dtype) -> None:
    logits, labels = batch()
    half = logits.to(dtype)
    assert reliability_of(half, labels).ece() == reliability_of(half.float(), labels).ece()
    assert reliability_of(half, labels).ece() == pytest.approx(brute_force_ece(half, labels, 10), abs=1e-6)


def test_more_pixels_than_float32_can_count() -> None:
    """24 million pixels of one confidence, 3/4 of them correct: a float32 sum would stop at 2**24."""
    side, images = 1000, 24
    logits = torch.zeros(1, 2, side, side)
    logits[:, 0] = math.log(4)  # confidence 0.8
    labels = torch.zeros(1, side, side, dtype=torch.uint8)
    labels[:, : side // 4] = 1
    reliability = Reliability()
    for _ in range(images):
        reliability.update(logits, labels)
    bins = reliability.bins()
    assert images * side * side > 2**24
    assert bins.count.sum() == images * side * side
    assert bins.correct.sum() == images * side * side * 3 // 4
    assert bins.ece() == pytest.approx(0.05, abs=1e-6)


def test_logits_between_0_and_1_are_still_logits() -> None:
    """torchmetrics treats values that are all in [0, 1] as probabilities."""
    logits, labels = batch()
    small = 0.1 * logits.sigmoid()
    assert reliability_of(small, labels).ece() == pytest.approx(brute_force_ece(small, labels, 10), abs=1e-6)
    guessed = multiclass_calibration_error(small, labels, 5, 10, ignore_index=255)
    assert abs(reliability_of(small, labels).ece() - guessed.item()) > 0.05


def test_histograms_are_kept_for_each_image() -> None:
    logits, labels = batch()
    histograms = columns(reliability_of(logits, labels))
    assert histograms["count"].shape == (6, FINE_BINS)
    for index in range(6):
        alone = columns(reliability_of(logits[index : index + 1], labels[index : index + 1], (1,)))
        for name, values in histograms.items():
            np.testing.assert_array_equal(values[index], alone[name][0])


@pytest.mark.parametrize("bins", [10, 15, 600])
def test_bins_of_every_edge_and_its_float_neighbours(bins: int) -> None:
    """Compared with exact fractions: the edge k/n in float32 belongs to the bin below it."""
    for k in range(1, bins):
        edge = np.float32(k / bins)
        values = torch.tensor([np.nextafter(edge, np.float32(0)), edge, np.nextafter(edge, np.float32(1))])
        assert bin_of(values, bins).tolist() == [k - 1, k - 1, k]


def test_a_number_of_bins_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="bins=7 does not divide 600"):
        Reliability().ece(7)
