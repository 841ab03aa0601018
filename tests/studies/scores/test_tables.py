"""Tables of scores: the values of each class, and how many rows are shown."""

import csv
import io

import numpy as np
import pytest
import torch

from segmentation.classes import Classes
from segmentation.scoring.scores import Scores
from studies.scores.tables import class_lines, class_scores, class_table, classes_csv, overlap_table


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
        both = (true & guessed).sum()
        assert found.values["iou"] == pytest.approx(both / (true | guessed).sum())
        assert found.values["accuracy"] == found.values["recall"] == pytest.approx(both / true.sum())
        assert found.values["precision"] == pytest.approx(both / guessed.sum())
        assert found.values["dice"] == pytest.approx(2 * both / (true.sum() + guessed.sum()))
        assert all(
            found.intervals[name].low <= value <= found.intervals[name].high for name, value in found.values.items()
        )
        assert found.pixels == true.sum()
        assert found.record()["dice"] == found.values["dice"]
    lines = list(class_lines(class_scores(scores)))
    assert len(lines) == 4
    assert lines[0].split() == ["class", "IoU", "accuracy", "pixels"]
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == [
        "class0", *(f"{class_scores(scores)[0].values[name]:.3f}" for name in ("iou", "accuracy")),
        f"{(labels == 0).sum():,}",
    ]  # fmt: skip


def test_of_many_classes_twelve_are_shown_and_the_rest_is_counted() -> None:
    scores, *_ = scored(15)
    found = class_scores(scores)
    lines = list(class_lines(found))
    assert [line.split()[0] for line in lines[1:13]] == [f"class{index}" for index in range(12)]
    mean = np.nanmean([each.values["iou"] for each in found[12:]])
    rest = f"and 3 classes with fewer pixels: mean IoU {mean:.3f}, {sum(each.pixels for each in found[12:])} pixels"
    assert lines[13].strip() == rest
    assert len(lines) == 14
    assert class_table(found).splitlines()[-1] == rest


def test_a_class_that_is_nowhere_has_no_values() -> None:
    scores = Scores(Classes.named("a", "b", "<c>"))
    labels = torch.tensor([[[0, 1], [1, 0]]])
    scores.update(torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), labels)
    assert [line.split()[0] for line in class_lines(class_scores(scores))] == ["class", "a", "b"]
    assert "| 1.000 | 1.000 | 2 |" in class_table(class_scores(scores))
    rows = list(csv.DictReader(io.StringIO(classes_csv(class_scores(scores)))))
    assert [(row["class"], row["dice"], row["boundary_iou_high"]) for row in rows[::2]] == [
        ("a", "1.000000", "1.000000"), ("<c>", "", ""),
    ]  # fmt: skip
    assert list(rows[0])[:5] == ["class", "pixels", "iou", "iou_low", "iou_high"]
    header, *_, known, _, absent = overlap_table(class_scores(scores)).splitlines()
    assert header == "| class | Dice | precision | recall | boundary IoU |"
    assert known == "| a | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |"
    assert absent == "| &#60;c&#62; | – | – | – | – |"


def test_names_of_classes_are_escaped_in_markdown() -> None:
    scores = Scores(Classes.named("<a>", "b"))
    labels = torch.tensor([[[0, 1], [1, 0]]])
    scores.update(torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float(), labels)
    assert "<a>" not in class_table(class_scores(scores))
