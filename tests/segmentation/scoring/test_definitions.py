"""Metrics compared with other definitions: loops, sorting all pixels, resampling by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch.nn import functional as F
from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall

from segmentation.classes import Classes
from segmentation.metrics import METRICS
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import interval
from segmentation.scoring.scores import Scores
from tests.segmentation.scoring.samples import batch, rare_class, scores_of


def test_loss_is_the_mean_over_the_pixels_of_the_split_not_of_batch_means() -> None:
    logits, labels = batch()
    expected = F.cross_entropy(logits.double(), labels, ignore_index=255).item()
    for size in (1, 2, 5):
        assert scores_of(logits, labels, size).metrics()["loss"] == pytest.approx(expected, abs=1e-6)
    mean_of_means = np.mean(
        [F.cross_entropy(one[None], truth[None], ignore_index=255) for one, truth in zip(logits, labels, strict=True)]
    )
    assert abs(mean_of_means - expected) > 1e-3


def test_brier_is_the_mean_squared_distance_of_all_probabilities() -> None:
    logits, labels = batch()
    valid = labels != 255
    truth = F.one_hot(torch.where(valid, labels, 0), 4).permute(0, 3, 1, 2)
    distance = ((logits.double().softmax(1) - truth) ** 2).sum(1)
    assert scores_of(logits, labels, 2).metrics()["brier"] == pytest.approx(distance[valid].mean().item(), abs=1e-6)


def test_every_metric_of_the_table_is_computed_and_absent_classes_have_no_iou() -> None:
    scores = scores_of(*batch(), 5)
    assert list(scores.metrics()) == list(METRICS)
    assert list(scores.class_iou()) == ["a", "b", "c"]


def in_order_of_confidence(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it is right of all non-void pixels, float64, the most confident first."""
    logits, valid = logits.double(), labels != 255
    label = logits.argmax(1)
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    log_odds = (logits.amax(1) - others)[valid]
    order = torch.argsort(log_odds, descending=True, stable=True)
    return log_odds.sigmoid()[order].numpy(), (label == labels)[valid][order].numpy()


def aurc(correct: np.ndarray) -> float:
    return float(np.mean(np.cumsum(~correct) / np.arange(1, len(correct) + 1)))


def drawn_from(logits: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    labels = torch.distributions.Categorical(logits=logits.movedim(1, -1)).sample()
    labels[torch.rand(labels.shape) < 0.05] = 255
    return labels


CONFIDENT = {
    "2 classes": (6, 2, 1.5), "4 classes": (8, 4, 2.5), "21 classes": (3, 21, 1.0), "extreme": (120, 4, 60.0),
}  # fmt: skip
"""Standard std of the logits, classes, and how over-confident they are."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CONFIDENT)
@pytest.mark.parametrize("temperature", [0.25, 0.5, 1, 2, 4])
def test_metrics_by_order_of_confidence_equal_sorting_every_pixel(
    case: str, temperature: float, dtype: torch.dtype
) -> None:
    """Counted by numba and by torch, up to log-odds whose confidence is 1 in float32."""
    std, classes, wrong = CONFIDENT[case]
    plain = std * torch.randn(8, classes, 64, 64, generator=torch.Generator().manual_seed(0))
    labels, logits = drawn_from(plain / wrong), (plain / temperature).to(dtype)
    scores = Scores(Classes.named(*(f"class {index}" for index in range(classes))))
    scores.update(logits, labels.to(torch.uint8))
    confidence, correct = in_order_of_confidence(logits, labels)
    metrics = scores.metrics()
    assert metrics["aurc"] == pytest.approx(aurc(correct), rel=1e-3)
    parts = np.array_split(correct - confidence, 10)
    adaptive = sum(abs(part.sum()) for part in parts) / len(correct)
    assert metrics["adaptive_ece"] == pytest.approx(adaptive, rel=1e-3, abs=2e-4)
    bins = scores.log_odds_bins()
    coverage, risk = calibration.risk_coverage(bins.count, bins.correct)
    kept = np.round(coverage[1:] * len(correct)).astype(int)
    expected = (np.cumsum(~correct) / np.arange(1, len(correct) + 1))[kept - 1]
    assert (np.abs(risk[1:] - expected) <= 2 / kept).all()  # a pixel or two on the edge of a bin
    assert np.diff(coverage).max() < 0.05


def test_pooled_and_image_wise_ece_differ_by_hand() -> None:
    """Two images of two pixels: one right, one wrong, both as sure."""
    sure = math.log(9)  # confidence 0.9
    logits = torch.zeros(2, 4, 1, 2)
    logits[:, 2:] = -1e4
    logits[0, 0] = logits[1, 0] = sure
    labels = torch.tensor([[[0, 0]], [[1, 1]]])
    metrics = scores_of(logits, labels, 2).metrics()
    assert metrics["ece"] == pytest.approx(abs(2 - 4 * 0.9) / 4, abs=1e-6)  # 0.4
    assert metrics["image_ece"] == pytest.approx((0.1 + 0.9) / 2, abs=1e-6)
    assert metrics["image_ece_spread"] == pytest.approx(np.std([0.1, 0.9], ddof=1), abs=1e-6)


def test_classwise_ece_and_its_bins_equal_a_loop_over_classes_and_pixels() -> None:
    logits, labels = batch()
    valid = (labels != 255).numpy()
    probabilities = logits.softmax(1).numpy()
    found = []
    for index in range(4):
        p, is_class = probabilities[:, index][valid], (labels.numpy() == index)[valid]
        index = np.clip(np.ceil(p.astype(np.float64) * 10).astype(int) - 1, 0, 9)
        gaps = np.bincount(index, is_class, 10) - np.bincount(index, p, 10)
        found.append(np.abs(gaps).sum() / valid.sum())
    assert scores_of(logits, labels, 2).metrics()["classwise_ece"] == pytest.approx(np.mean(found), abs=1e-7)


def test_means_over_classes_are_over_the_same_classes_in_every_resample() -> None:
    """One resample at a time: a class that a resample lacks keeps its value in the whole split."""
    logits, labels = rare_class()
    scores = scores_of(logits, labels, 40)
    metrics, found = scores.metrics(), scores.intervals(4000)
    confusion = scores.confusion.table.column("confusion").astype(np.int64)

    def by_class(times: np.ndarray) -> np.ndarray:
        total = np.tensordot(times, confusion, 1)
        right, labelled, predicted = total.diagonal(), total.sum(1), total.sum(0)
        with np.errstate(invalid="ignore"):
            return np.array([right / (labelled + predicted - right), right / labelled])

    whole = by_class(np.ones(40, int))
    assert np.isnan(whole[:, 3]).all()
    random, values = np.random.default_rng(3), []
    for _ in range(4000):
        found_by_class = by_class(np.bincount(random.integers(0, 40, 40), minlength=40))
        lacking = np.isnan(found_by_class)
        found_by_class[lacking] = whole[lacking]
        values.append(found_by_class[:, :3].mean(1))
    for name, resamples, value in zip(("mean_iou", "mean_class_accuracy"), np.transpose(values), whole, strict=True):
        assert metrics[name] == pytest.approx(value[:3].mean())
        low, high = interval(resamples, metrics[name])
        assert found[name].low == pytest.approx(low, abs=0.1 * (high - low)), name
        assert found[name].high == pytest.approx(high, abs=0.1 * (high - low)), name
        assert high - low < 0.1  # far from what two classes instead of three would give
    kept = [group for group in METRICS if not math.isnan(metrics[group])]
    assert all(found[name].low <= found[name].high for name in kept)


def predicted_only_and_never() -> tuple[torch.Tensor, torch.Tensor]:
    """Six images of five classes: one is only predicted, one is never predicted, one is absent; with void."""
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (6, 9, 8), generator=random)
    predicted = torch.where(torch.rand(labels.shape, generator=random) < 0.7, labels, 0)
    predicted[labels == 2] = 3
    labels[:, 0] = 255
    return 5 * F.one_hot(predicted, 5).movedim(-1, 1).float(), labels


def test_dice_precision_and_recall_are_those_of_scikit_learn_and_torchmetrics() -> None:
    logits, labels = predicted_only_and_never()
    scores = Scores(Classes.named(*"abcde"))
    scores.update(logits, labels)
    valid = labels != 255
    pixels = labels[valid], logits.argmax(1)[valid]
    by_class = precision_recall_fscore_support(*(each.numpy() for each in pixels), labels=range(5), zero_division=0)
    found = scores.by_class()
    for values, expected in zip((found.precision, found.recall, found.dice), by_class, strict=False):
        np.testing.assert_allclose(values[:4], expected[:4])
        assert np.isnan(values[4])
    assert (found.precision[2], found.recall[3], found.iou[3]) == (0, 0, 0)
    assert np.isnan(found.accuracy[3])
    metrics = scores.metrics()
    for name, reference in (
        ("mean_dice", MulticlassF1Score), ("mean_precision", MulticlassPrecision), ("mean_recall", MulticlassRecall)
    ):  # fmt: skip
        assert metrics[name] == pytest.approx(reference(5, average="macro")(pixels[1], pixels[0]).item(), abs=1e-6)


def test_intervals_of_classes_equal_resampling_by_hand() -> None:
    logits, labels = batch(images=8)
    scores = scores_of(logits, labels, 8)
    found, values = scores.class_intervals(), scores.by_class()._asdict()
    draws = np.random.default_rng(5).integers(0, 8, (300, 8))
    again = [scores_of(logits[draw], labels[draw], 8).by_class()._asdict() for draw in draws]
    assert found.keys() == values.keys()
    for name, ends in found.items():
        assert np.isnan(ends[3]).all(), name  # an absent class
        for index in range(3):
            low, high = interval(np.array([each[name][index] for each in again]), values[name][index])
            assert low < high
            assert ends[index] == pytest.approx((low, high), abs=0.25 * (high - low)), (name, index)


def test_every_interval_equals_resampling_by_hand() -> None:
    """Draw images, score them as a split, and repeat.

    The debiased metrics are excluded: they subtract more noise from a resample than from a split.
    """
    logits, labels = batch(images=8)
    scores = scores_of(logits, labels, 8)
    found = scores.intervals(2000)
    assert list(found) == list(METRICS)
    draws = np.random.default_rng(5).integers(0, 8, (300, 8))
    again = [scores_of(logits[draw], labels[draw], 8).metrics() for draw in draws]
    for name in METRICS.keys() - {"debiased_ece", "debiased_rmsce"}:
        low, high = interval(np.array([metrics[name] for metrics in again]), scores.metrics()[name])
        width = high - low
        assert found[name].low == pytest.approx(low, abs=0.25 * width), name
        assert found[name].high == pytest.approx(high, abs=0.25 * width), name


def perfectly_calibrated(random: np.random.Generator, images: int) -> Scores:
    """Images of 10 x 10 pixels whose true class is drawn from the probabilities, pixel by pixel."""
    logits = torch.from_numpy(random.normal(0, 1.5, (images, 4, 10, 10))).float()
    draws = torch.from_numpy(random.random((images, 1, 10, 10)))
    labels = (logits.double().softmax(1).cumsum(1) < draws).sum(1).clamp(max=3)
    return scores_of(logits, labels, images)


def test_the_noise_floor_is_the_ece_of_perfectly_calibrated_models() -> None:
    random = np.random.default_rng(0)
    splits = [perfectly_calibrated(random, 40) for _ in range(30)]
    shown = np.mean([scores.metrics()["ece"] for scores in splits])
    floors = [np.mean(scores.resampled(resamples=500)["noise_floor"]) for scores in splits[:8]]
    assert np.mean(floors) == pytest.approx(shown, rel=0.15)
