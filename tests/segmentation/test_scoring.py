import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmentation.labels import Labels
from segmentation.metrics import METRICS, is_better
from segmentation.scoring import Scores, score

LABELS = Labels.named("a", "b", "c", "absent")


def batch(seed: int = 0, images: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 4, 6, 7, generator=random)
    logits[:, 3] = -20
    labels = torch.randint(0, 3, (images, 6, 7), generator=random)
    labels[0, 1:] = 255  # images with different numbers of pixels
    return logits, labels


def scores_of(logits: torch.Tensor, labels: torch.Tensor, size: int) -> Scores:
    scores = Scores(LABELS)
    for start in range(0, len(logits), size):
        scores.update(logits[start : start + size], labels[start : start + size])
    return scores


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


def test_any_batches_and_any_merge_give_the_same_metrics() -> None:
    logits, labels = batch()
    whole = scores_of(logits, labels, 5).metrics()
    assert scores_of(logits, labels, 1).metrics() == pytest.approx(whole, abs=1e-12)
    first, second = scores_of(logits[:3], labels[:3], 2), scores_of(logits[3:], labels[3:], 2)
    first.merge(second)
    assert first.metrics() == pytest.approx(whole, abs=1e-12)


def test_every_metric_of_the_table_is_measured_and_absent_classes_have_no_iou() -> None:
    scores = scores_of(*batch(), 5)
    assert list(scores.metrics()) == list(METRICS)
    assert list(scores.class_iou()) == ["a", "b", "c"]


def test_an_all_void_split_has_no_figures_but_does_not_fail() -> None:
    logits, labels = batch()
    scores = scores_of(logits, torch.full_like(labels, 255), 2)
    assert all(math.isnan(value) for value in scores.metrics().values())


def test_what_is_saved_of_each_image_adds_up_to_the_metrics(tmp_path: Path) -> None:
    logits, labels = batch()
    scores = scores_of(logits, labels, 2)
    scores.save_histograms(tmp_path / "h.npz", [f"picture {index}" for index in range(5)])
    saved = np.load(tmp_path / "h.npz", allow_pickle=False)
    assert saved["names"].tolist() == [f"picture {index}" for index in range(5)]
    assert saved["pixels"].tolist() == (labels != 255).sum((1, 2)).tolist()
    metrics = scores.metrics()
    pixels = saved["pixels"].sum()
    assert saved["count"].sum() == pixels
    assert saved["negative_log_likelihood"].sum() / pixels == pytest.approx(metrics["loss"])
    assert saved["correct"].sum() / pixels == pytest.approx(metrics["pixel_accuracy"])
    ten = {name: saved[name].sum(0).reshape(10, 60).sum(1) for name in ("count", "confidence_sum", "correct")}
    assert np.abs(ten["correct"] - ten["confidence_sum"]).sum() / pixels == pytest.approx(metrics["ece"])


def test_every_interval_holds_its_figure_and_equals_resampling_by_hand() -> None:
    """The brute-force twin: draw images, put them together as one split, and score that split anew."""
    logits, labels = batch(images=8)
    scores = scores_of(logits, labels, 8)
    found = scores.intervals()
    assert list(found) == list(METRICS)
    draws = np.random.default_rng(5).integers(0, 8, (400, 8))
    again = [scores_of(logits[draw], labels[draw], 8).metrics() for draw in draws]
    for name, value in scores.metrics().items():
        low, high = np.quantile([metrics[name] for metrics in again], [0.025, 0.975])
        assert found[name].low <= value <= found[name].high or name in ("ece", "mce")  # these are biased upwards
        width = high - low
        assert found[name].low == pytest.approx(low, abs=0.15 * width), name
        assert found[name].high == pytest.approx(high, abs=0.15 * width), name


def test_an_all_void_split_has_no_intervals() -> None:
    logits, labels = batch()
    assert all(
        math.isnan(interval.low) for interval in scores_of(logits, torch.full_like(labels, 255), 5).intervals().values()
    )
    assert Scores(LABELS).intervals() == {}


class Recorder(nn.Module):
    """Says what it is given, and whether it was training at the time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen_training = self.training
        return torch.cat([images.float(), torch.zeros_like(images[:, :1], dtype=torch.float32)], 1)


def test_the_network_is_scored_in_evaluation_mode_and_put_back() -> None:
    network = Recorder().train()
    images = torch.randint(0, 9, (4, 3, 5, 5), dtype=torch.uint8)
    scores = score(network, [(images, images.argmax(1).to(torch.uint8))], LABELS)
    assert not network.seen_training
    assert network.training
    assert scores.metrics()["pixel_accuracy"] == 1


@pytest.mark.parametrize(
    ("metric", "value", "than", "better"),
    [
        ("val/loss", 0.1, 0.2, True), ("val/loss", 0.2, 0.1, False), ("val/loss", 0.1, 0.1, False),
        ("val/mean_iou", 0.2, 0.1, True), ("val/ece", 0.2, 0.1, False), ("val/pixel_accuracy", 0.9, 0.8, True),
        ("val/loss", math.nan, 1.0, False), ("val/loss", 1.0, math.nan, True), ("val/loss", math.nan, math.nan, False),
    ],
)  # fmt: skip
def test_which_value_is_better(metric: str, value: float, than: float, better: bool) -> None:
    assert is_better(metric, value, than) is better
