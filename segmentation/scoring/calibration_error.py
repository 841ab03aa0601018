"""Calibration errors and other metrics that follow from reliability histograms.

All are functions of sums over images, `(..., n)` over `n` bins, for any leading axes: one split, its classes, or
thousands of resamples at once. `count` is the number of pixels in each bin, `gap` the sum of (1 if correct, else 0) -
confidence over these pixels, and `correct` the number of correct pixels.
"""

import numpy as np
import torch

from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.confusion import mean_of_defined, ratios

BINS = 10
"""Default number of bins, as in the original report."""


def coarse(fine: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bins `(..., n)` added up to `(..., bins)`.

    Raises:
        ValueError: `bins` does not divide `n`.
    """
    if bins < 1 or fine.shape[-1] % bins:
        raise ValueError(f"bins={bins} does not divide {fine.shape[-1]}")
    return fine.reshape(*fine.shape[:-1], bins, fine.shape[-1] // bins).sum(-1)


def ece(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean absolute gap of the bins, weighted by their pixels, in [0, 1].

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; with the
    top label's confidence as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Returns:
        `(...)`; NaN without pixels, as for all metrics below.
    """
    return ratios(np.abs(gap).sum(-1), count.sum(-1))


def mce(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Maximum calibration error (Naeini et al. 2015): the largest absolute mean gap of any bin, in [0, 1]."""
    gaps = _per_pixel(np.abs(gap), count)
    return np.where(count.sum(-1) > 0, gaps.max(-1), np.nan)


def rmsce(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Root mean square calibration error: root of the mean squared gap, weighted by pixels, in [0, 1].

    Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019.
    """
    return np.sqrt(ratios(_per_pixel(gap**2, count).sum(-1), count.sum(-1)))


def confidence_gap(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Mean accuracy minus mean confidence, in [-1, 1]: negative is over-confident, positive under-confident."""
    return ratios(gap.sum(-1), count.sum(-1))


def confidence_verdict(gap: float, ends: Interval) -> str:
    """Whether a model is over- or under-confident, in words: only where the gap's interval excludes 0.

    Args:
        gap: accuracy minus confidence.
        ends: its 95 % interval.
    """
    if ends.low > 0 or ends.high < 0:
        return f"{'over' if gap < 0 else 'under'}-confident by {abs(gap):.4f}"
    return "no over- or under-confidence shown"


def adaptive_ece(count: np.ndarray, gap: np.ndarray, bins: int = BINS) -> np.ndarray:
    """ECE over equal-mass bins, which hold equal numbers of pixels in order of confidence; in [0, 1].

    Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis for Natural Language Processing Models", EMNLP
    2015; Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops 2019.

    Args:
        count, gap: fine bins in order of confidence, `(..., n)`, such as those of `log_odds`. A fine bin on the edge of
            an equal-mass bin is divided in proportion, as if all its pixels had its mean confidence and accuracy.
        bins: number of equal-mass bins.
    """
    pixels, gaps = _cumulative(count), _cumulative(gap)
    total = pixels[..., -1:]
    edges = total * (np.arange(1, bins) / bins)
    index = torch.searchsorted(torch.from_numpy(pixels), torch.from_numpy(edges)).clamp(1, count.shape[-1]).numpy()
    before, after = (np.take_along_axis(pixels, index - step, -1) for step in (1, 0))
    low, high = (np.take_along_axis(gaps, index - step, -1) for step in (1, 0))
    at_edges = low + _per_pixel(edges - before, after - before) * (high - low)
    gaps_between = np.diff(np.concatenate([np.zeros_like(total), at_edges, gaps[..., -1:]], -1), axis=-1)
    return ratios(np.abs(gaps_between).sum(-1), total[..., 0])


def debiased(
    count: np.ndarray, gap: np.ndarray, moments: np.ndarray, samplings: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """ECE and RMSCE minus their bias from sampling noise.

    Sampling noise moves every bin away from the diagonal. Both metrics add up distances, so the noise makes them too
    large, more so with fewer images. Kumar, Liang and Ma, "Verified Uncertainty Calibration", NeurIPS 2019, subtract
    the bins' variance from the squared gaps, and from the absolute gaps the amount that normal noise of that variance
    adds. Roelofs et al., "Mitigating Bias in Calibration Error Estimation", AISTATS 2022, evaluate these estimators.
    They assume independent samples. Neighbouring pixels are not independent, so here the variance is between images.

    Args:
        count, gap: `(..., n)`.
        moments: `(..., n, 4)` sums over images of count**2, count * gap, gap**2 and (1 if count else 0), see `moments`.
        samplings: how many times sampling noise enters: 1 for a sample, 2 for a resample of a sample.

    Returns:
        Both `(...)`, at least 0.
    """
    mean = _per_pixel(gap, count)
    squared, product, gap_squared, images = np.moveaxis(moments, -1, 0)
    scatter = np.maximum(gap_squared - 2 * mean * product + mean**2 * squared, 0)
    variance = samplings * _per_pixel(scatter, count.astype(np.float64) ** 2)
    variance *= np.nan_to_num(ratios(images, images - 1), nan=1.0)
    size, std = np.abs(mean), np.sqrt(variance)
    plain = size - (_folded_normal_mean(size, std) - size)
    pixels = count.sum(-1)
    return (
        np.maximum(ratios((count * plain).sum(-1), pixels), 0),
        np.sqrt(np.maximum(ratios((count * (mean**2 - variance)).sum(-1), pixels), 0)),
    )


def moments(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Moments of each image for `debiased`: `(N, n)` to `(N, n, 4)`."""
    count = count.astype(np.float64)
    return np.stack([count**2, count * gap, gap**2, count > 0], -1)


def classwise_ece(count: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Static calibration error: one-against-rest ECE of each class, mean over classes; in [0, 1].

    Nixon et al. 2019; Kull et al., "Beyond Temperature Scaling", NeurIPS 2019 (classwise-ECE).

    Args:
        count, gap: `(..., C, n)`; every pixel is counted once per class, and is correct if it is of the class.
    """
    return mean_of_defined(ece(count, gap))


def brier_decomposition(
    count: np.ndarray, gap: np.ndarray, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability, resolution and uncertainty of the Brier score, summed over the classes.

    Murphy, "A New Vector Partition of the Probability Score", Journal of Applied Meteorology 1973. The Brier score is
    reliability - resolution + uncertainty, plus terms for the variation of probabilities within bins (Stephenson,
    Coelho and Jolliffe, "Two Extra Components in the Brier Score Decomposition", Weather and Forecasting 2008).

    Args:
        count, gap: as for `classwise_ece`.
        positive: pixels of the class, `(..., C, n)`.
    """
    pixels = count[..., 0, :].sum(-1)
    base = ratios(positive.sum(-1), count.sum(-1))[..., None]
    reliability = _per_pixel(gap**2, count).sum((-1, -2))
    resolution = _per_pixel((positive - base * count) ** 2, count).sum((-1, -2))
    uncertainty = (base * (1 - base))[..., 0].sum(-1)
    return ratios(reliability, pixels), ratios(resolution, pixels), uncertainty


def risk_coverage(count: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk `(m,)`: error rate of the most confident pixels against the fraction of pixels kept.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.

    Args:
        count, correct: fine bins in order of confidence, `(n,)`, such as those of `log_odds`.

    Returns:
        Coverage, from 0 to 1, and the risk at each. Pixels of one bin count as equally confident, so the risk is
        constant up to the first point.
    """
    filled = count[::-1] > 0
    kept = np.cumsum(count[::-1], dtype=np.float64)[filled]
    wrong = np.cumsum((count - correct)[::-1], dtype=np.float64)[filled]
    risk = wrong / kept
    return np.concatenate([np.zeros_like(kept[:1]), kept / kept[-1:]]), np.concatenate([risk[:1], risk])


def area_under_risk_coverage(count: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Mean risk over all coverages, in [0, 1]: lower if confidence ranks correct pixels above wrong ones.

    Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019. Pixels of
    one fine bin count as equally confident.

    Args:
        count, correct: fine bins in order of confidence, `(..., n)`, such as those of `log_odds`.
    """
    count, wrong = count[..., ::-1], (count - correct)[..., ::-1]
    pixels, errors = _cumulative(count), _cumulative(wrong)
    growth = np.diff(np.log(np.maximum(pixels, 1)), axis=-1)
    inside = (errors[..., :-1] - _per_pixel(wrong, count) * pixels[..., :-1]) * growth  # 0 in the first filled bin
    return ratios(errors[..., -1] + inside.sum(-1), pixels[..., -1])


def chance_ece(count: np.ndarray, gap: np.ndarray, split_count: np.ndarray, split_gap: np.ndarray) -> np.ndarray:
    """ECE of resamples of a perfectly calibrated split with the same confidences.

    Each bin's gap in the split is subtracted, so that only the variation between images remains. The mean over
    resamples is the noise floor of the ECE for this number of images.

    Args:
        count, gap: resamples, `(..., n)`.
        split_count, split_gap: the split that they were drawn from, `(n,)`.
    """
    return ece(count, gap - count * _per_pixel(split_gap, split_count))


def _cumulative(values: np.ndarray) -> np.ndarray:
    """Cumulative sums, `(..., n)` to `(..., n + 1)` float64; torch is several times faster than numpy here."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    sums[..., 1:] = values
    return torch.from_numpy(sums).cumsum_(-1).numpy()


def _per_pixel(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sums over the pixels of each bin, divided by their number; 0 for an empty bin."""
    return sums / np.maximum(count, 1)


def _folded_normal_mean(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Mean of the absolute value of a normal variable; Leone, Nelson and Nottingham, Technometrics 1961."""
    z = np.divide(mean, std, out=np.full_like(mean, np.inf), where=std > 0)
    inside = torch.erf(torch.from_numpy(z / np.sqrt(2))).numpy()
    return np.asarray(std * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + mean * inside)
