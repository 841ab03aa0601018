"""Tables of scores: the values of each class, and how many rows are shown."""

import numpy as np
import pytest
import torch

from segmentation.classes import Classes
from segmentation.scoring.scores import Scores
from studies.scores.tables import class_lines, class_scores, class_table


def scored(classes: int) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Scores of classes of which each has fewer pixels than the one before, with labels and predictions."""
    random = np.random.default_rng(0)
    frequencies = 0.7 ** np.arange(classes)
    labels = random.choice(classes, (3, 40, 40), p=frequencies / frequencies.sum())
    wrong = random.choice(classes, labels.shape)
    predicted = np.where(random.random(labels.shape) < 0.8, labels, wrong)
    scores = Scores(Classes.named(*(f"class{index}" for index in range(classes))))
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), classes).movedim(-1, 1).float()
    scores.update(logits, torch.tensor(labels))
    return scores, labels, predicted


def test_the_scores_of_classes_are_those_of_their_pixels() -> None:
    scores, labels, predicted = scored(3)
    for index, found in enumerate(class_scores(scores)):
        true, guessed = labels == index, predicted == index
        assert found.name == f"class{index}"
        assert found.iou == pytest.approx((true & guessed).sum() / (true | guessed).sum())
        assert found.accuracy == pytest.approx((true & guessed).sum() / true.sum())
        assert found.pixels == true.sum()
    lines = list(class_lines(class_scores(scores)))
    assert len(lines) == 4
    assert lines[0].split() == ["class", "IoU", "accuracy", "pixels"]
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == [
        "class0", *(f"{value:.3f}" for value in class_scores(scores)[0][1:3]), f"{(labels == 0).sum():,}",
    ]  # fmt: skip


def test_of_many_classes_twelve_are_shown_and_the_rest_is_counted() -> None:
    scores, *_ = scored(15)
    found = class_scores(scores)
    lines = list(class_lines(found))
    assert [line.split()[0] for line in lines[1:13]] == [f"class{index}" for index in range(12)]
    mean = np.nanmean([each.iou for each in found[12:]])
    rest = f"and 3 classes with fewer pixels: mean IoU {mean:.3f}, {sum(each.pixels for each in found[12:])} pixels"
    assert lines[13].strip() == rest
    assert len(lines) == 14
    assert class_table(found).splitlines()[-1] == rest


def test_a_class_that_is_nowhere_has_no_values() -> None:
    scores = Scores(Classes.named("a", "b", "<c>"))
    labels = torch.tensor([[[0, 1], [1, 0]]])
    scores.update(torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), labels)
    assert list(class_lines(class_scores(scores)))[3].split() == ["<c>", "–", "–", "0"]
    assert "| 1.000 | 1.000 | 2 |" in class_table(class_scores(scores))
    assert "<c>" not in class_table(class_scores(scores)), "Markdown is escaped"
