"""Every calibration metric compared with a hand calculation, raw pixels instead of histograms, or another library."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.calibration_error import coarse

FINE = 600


def pixels(seed: int = 0, count: int = 50_000, sharpness: float = 1.3) -> tuple[np.ndarray, np.ndarray]:
    """Confidences in (0, 1] and whether each is correct; over-confident at the top."""
    random = np.random.default_rng(seed)
    confidence = random.beta(5, 2, count)
    return confidence, random.random(count) < confidence**sharpness


def histogram(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, gap and correct of bins `(a, b]`, by numpy alone."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count, right = np.bincount(index, minlength=bins), np.bincount(index, correct, bins)
    return count, right - np.bincount(index, confidence, bins), right


def test_metrics_by_hand() -> None:
    # two bins: 4 pixels with 3 right at confidence 0.5 (gap +1), 6 pixels with 3 right at 0.9 (gap -2.4)
    count, gap = np.array([4, 6]), np.array([3 - 2.0, 3 - 5.4])
    assert calibration.ece(count, gap) == pytest.approx(3.4 / 10)
    assert calibration.mce(count, gap) == pytest.approx(0.4)
    assert calibration.rmsce(count, gap) == pytest.approx(math.sqrt((4 * 0.25**2 + 6 * 0.4**2) / 10))
    assert calibration.confidence_gap(count, gap) == pytest.approx(-1.4 / 10)


def test_leading_axes_are_independent() -> None:
    random = np.random.default_rng(0)
    count = random.integers(0, 20, (3, 4, 60))
    correct = random.binomial(count, 0.6)
    gap = correct - count * np.linspace(0, 1, 60)
    for metric, arguments in (
        (calibration.ece, (count, gap)), (calibration.mce, (count, gap)), (calibration.rmsce, (count, gap)),
        (calibration.confidence_gap, (count, gap)), (calibration.adaptive_ece, (count, gap)),
        (calibration.area_under_risk_coverage, (count, correct)),
    ):  # fmt: skip
        found = metric(*arguments)
        assert found.shape == (3, 4)
        assert found[1, 2] == pytest.approx(metric(*(array[1, 2] for array in arguments)))


def test_without_pixels_every_metric_is_nan() -> None:
    none = np.zeros(FINE)
    for value in (
        calibration.ece(none, none), calibration.mce(none, none), calibration.rmsce(none, none),
        calibration.confidence_gap(none, none), calibration.adaptive_ece(none, none),
        calibration.area_under_risk_coverage(none, none), *calibration.debiased(none, none, np.zeros((FINE, 4))),
    ):  # fmt: skip
        assert math.isnan(value)


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_adaptive_ece_equals_sorting_all_pixels_into_bins_of_equal_size(bins: int) -> None:
    confidence, correct = pixels(count=42_000)
    order = np.argsort(confidence)
    parts = np.split((correct - confidence)[order], bins) if 42_000 % bins == 0 else np.array_split(
        (correct - confidence)[order], bins)  # fmt: skip
    expected = sum(abs(part.sum()) for part in parts) / len(confidence)
    count, gap, _ = histogram(confidence, correct, FINE)
    assert calibration.adaptive_ece(count, gap, bins) == pytest.approx(expected, abs=2e-4)


def test_adaptive_ece_divides_a_fine_bin_with_many_pixels() -> None:
    # 8 pixels of one fine bin with gap -1.6 fill the upper two of two bins of 5: 5 of them, and 3 with the rest
    count, gap = np.zeros(FINE), np.zeros(FINE)
    count[[300, 599]], gap[[300, 599]] = [2, 8], [0.5, -1.6]
    assert calibration.adaptive_ece(count, gap, 2) == pytest.approx((abs(0.5 - 0.6) + 1.0) / 10)


def test_area_under_risk_coverage_equals_sorting_all_pixels() -> None:
    confidence, correct = pixels()
    wrong = ~correct[np.argsort(-confidence)]
    expected = np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))
    count, _, right = histogram(confidence, correct, FINE)
    assert calibration.area_under_risk_coverage(count, right) == pytest.approx(expected, abs=1e-4)


def test_area_under_risk_coverage_by_hand() -> None:
    # 4 pixels right at the top, then 4 wrong: the risk at coverage t > 1/2 is 1 - 1/(2 t)
    count, right = np.array([0, 4, 0, 4]), np.array([0, 0, 0, 4])
    assert calibration.area_under_risk_coverage(count, right) == pytest.approx(0.5 - 0.5 * math.log(2))
    assert calibration.area_under_risk_coverage(np.array([8]), np.array([6])) == pytest.approx(0.25)


def test_risk_coverage_curve_by_hand() -> None:
    coverage, risk = calibration.risk_coverage(np.array([2, 0, 4, 2, 0]), np.array([0, 0, 3, 2, 0]))
    np.testing.assert_allclose(coverage, [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 0, 1 / 6, 3 / 8])
    assert calibration.risk_coverage(np.zeros(5), np.zeros(5))[0].size == 0


def test_brier_decomposition_adds_up_when_probabilities_are_constant_inside_bins() -> None:
    random = np.random.default_rng(0)
    levels = np.array([0.05, 0.35, 0.65, 0.95])
    probability = levels[random.integers(0, 4, 4000)]
    positive = random.random(4000) < 0.8 * probability + 0.05
    both = [histogram(p, y, 10) for p, y in ((probability, positive), (1 - probability, ~positive))]
    count, gap, right = (np.stack(part) for part in zip(*both, strict=True))
    reliability, resolution, uncertainty = calibration.brier_decomposition(count, gap, right)
    expected = 2 * brier_score_loss(positive, probability)
    assert reliability - resolution + uncertainty == pytest.approx(expected, abs=1e-12)
    base = positive.mean()
    assert uncertainty == pytest.approx(2 * base * (1 - base))
    by_hand = sum(
        (probability == level).mean() * ((positive[probability == level].mean() - level) ** 2) for level in levels
    )
    assert reliability == pytest.approx(2 * by_hand)


def test_classwise_ece_is_the_mean_over_classes_that_have_pixels() -> None:
    count = np.array([[4, 6], [10, 0], [0, 0]])
    gap = np.array([[1.0, -2.4], [0.5, 0], [0, 0]])
    assert calibration.classwise_ece(count, gap) == pytest.approx((0.34 + 0.05) / 2)


def test_debiasing_is_kumar_s_for_images_of_one_pixel_and_one_confidence_a_bin() -> None:
    """Their estimator of the squared error: subtract accuracy (1 - accuracy) / (n - 1) in each bin."""
    random = np.random.default_rng(3)
    levels = np.array([0.25, 0.75, 0.95])
    index = random.integers(0, 3, 300)
    correct = random.random(300) < levels[index]
    count = np.zeros((300, 10))
    bins = np.ceil(levels * 10).astype(int) - 1
    count[np.arange(300), bins[index]] = 1
    gap = count * (correct - levels[index])[:, None]
    _, rmsce = calibration.debiased(count.sum(0), gap.sum(0), calibration.moments(count, gap).sum(0))
    expected = 0.0
    for level, number in zip(levels, range(3), strict=True):
        right = correct[index == number]
        accuracy, n = right.mean(), len(right)
        expected += n / 300 * ((accuracy - level) ** 2 - accuracy * (1 - accuracy) / (n - 1))
    assert rmsce == pytest.approx(math.sqrt(max(expected, 0)), abs=1e-12)


def many_splits(miscalibration: float, splits: int = 400, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Count and gap `(splits, images, 10)` of images whose pixels are correct or wrong together."""
    random = np.random.default_rng(0)
    count = random.integers(50, 200, (splits, images, 10)).astype(float)
    mood = random.normal(0, 0.15, (splits, images, 1))
    return count, count * (miscalibration + mood)


@pytest.mark.parametrize("miscalibration", [0.0, 0.01])
def test_debiasing_removes_sampling_noise(miscalibration: float) -> None:
    count, gap = many_splits(miscalibration)
    pooled = count.sum(1), gap.sum(1)
    ece, rmsce = calibration.debiased(*pooled, calibration.moments(count, gap).sum(1))
    for plain, debiased in ((calibration.ece(*pooled), ece), (calibration.rmsce(*pooled), rmsce)):
        assert abs(debiased.mean() - miscalibration) < 0.75 * abs(plain.mean() - miscalibration)


def test_the_debiased_square_is_unbiased() -> None:
    """Without clipping at 0, plain squares are too large by the variance and debiased ones are not."""
    count, gap = many_splits(0.1)
    pooled = count.sum(1), gap.sum(1)
    _, rmsce = calibration.debiased(*pooled, calibration.moments(count, gap).sum(1))
    variance = 0.15**2 / 40
    noise = 4 * 2 * 0.1 * math.sqrt(variance / 400)
    assert (calibration.rmsce(*pooled) ** 2).mean() == pytest.approx(0.1**2 + variance, abs=noise)
    assert (rmsce**2).mean() == pytest.approx(0.1**2, abs=noise)


def test_folded_normal_mean_equals_scipy_s() -> None:
    for mean, deviation in ((0.0, 1.0), (0.3, 0.2), (2.0, 0.5), (1.5, 0.0)):
        expected = stats.foldnorm(mean / deviation, scale=deviation).mean() if deviation else mean
        (found,) = calibration._folded_normal_mean(np.array([mean]), np.array([deviation]))
        assert found == pytest.approx(expected, abs=1e-7)


def test_chance_ece_is_the_ece_after_subtracting_the_gaps_of_the_split() -> None:
    split_count, split_gap = np.array([10, 0, 30]), np.array([2.0, 0, -6.0])
    assert calibration.chance_ece(split_count, split_gap, split_count, split_gap) == 0
    found = calibration.chance_ece(np.array([12, 0, 28]), np.array([3.0, 0, -5.0]), split_count, split_gap)
    assert found == pytest.approx((abs(3 - 2.4) + abs(-5 + 5.6)) / 40)


def test_any_number_of_bins_that_divides_is_made_by_adding_up() -> None:
    assert coarse(np.arange(6), 3).tolist() == [1, 5, 9]
    assert coarse(np.ones((2, 600)), 15).tolist() == [[40] * 15] * 2
