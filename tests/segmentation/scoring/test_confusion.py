import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from segmentation.scoring.confusion import Confusion


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, 4, (5, 8, 8), generator=random)
    labels = torch.where(torch.rand(5, 8, 8, generator=random) < 0.6, predicted, 3 - predicted)
    labels[torch.rand(5, 8, 8, generator=random) < 0.1] = 255
    return predicted, labels


def confusion_of(predicted: torch.Tensor, labels: torch.Tensor, classes: int = 4) -> Confusion:
    confusion = Confusion(classes)
    confusion.update(predicted, labels, labels != 255)
    return confusion


def test_equals_torchmetrics() -> None:
    predicted, labels = batch()
    confusion = confusion_of(predicted, labels)
    given = (predicted, labels, 4)
    assert confusion.counts.tolist() == multiclass_confusion_matrix(*given, ignore_index=255).tolist()
    for ours, theirs in (
        (confusion.pixel_accuracy(), multiclass_accuracy(*given, average="micro", ignore_index=255)),
        (confusion.mean_class_accuracy(), multiclass_accuracy(*given, average="macro", ignore_index=255)),
        (confusion.mean_iou(), multiclass_jaccard_index(*given, average="macro", ignore_index=255)),
    ):
        assert ours == pytest.approx(theirs.item(), abs=1e-6)
    theirs = multiclass_jaccard_index(*given, average="none", ignore_index=255).numpy()
    np.testing.assert_allclose(confusion.iou(), theirs, atol=1e-6)


def test_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 0, 1]]])
    confusion = confusion_of(predicted, labels, 3)
    assert confusion.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert confusion.pixel_accuracy() == 3 / 5
    assert confusion.mean_class_accuracy() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert confusion.iou()[:2].tolist() == [2 / 4, 1 / 3]
    assert math.isnan(confusion.iou()[2])
    assert confusion.mean_iou() == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_a_class_that_is_only_predicted_lowers_the_mean_iou() -> None:
    confusion = confusion_of(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]), 3)
    assert confusion.mean_iou() == pytest.approx((1 / 2 + 0) / 2)
    assert confusion.mean_class_accuracy() == 1 / 2


def test_merging_equals_one_pass() -> None:
    predicted, labels = batch()
    first, second = confusion_of(predicted[:2], labels[:2]), confusion_of(predicted[2:], labels[2:])
    first.merge(second)
    assert first.counts.tolist() == confusion_of(predicted, labels).counts.tolist()


def test_without_pixels_all_metrics_are_nan() -> None:
    confusion = confusion_of(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    assert all(
        math.isnan(v) for v in (confusion.pixel_accuracy(), confusion.mean_iou(), confusion.mean_class_accuracy())
    )
