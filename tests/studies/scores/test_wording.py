"""Sentences on scores: which numbers they name, and when they warn."""

import math

import pytest
import torch

from segmentation.classes import Classes
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.calibration_error import confidence_verdict
from segmentation.scoring.scores import Scores
from studies.scores.wording import (
    NoiseFloor,
    calibration_sentence,
    crop_note,
    few_images_warning,
    first_epoch_warning,
    learned_nothing,
    prediction_warnings,
    protocol_line,
)

CHANCE = (0.001, 0.004)
NOTHING = (math.nan, math.nan)


def sentence(gap: float, ends: tuple[float, float], ece: float, chance: tuple[float, float], images: int = 101) -> str:
    intervals = {"confidence_gap": Interval(*ends)}
    return calibration_sentence({"confidence_gap": gap, "ece": ece}, intervals, NoiseFloor(*chance), images)


@pytest.mark.parametrize(
    ("gap", "ends", "ece", "chance", "expected"),
    [
        (-0.03, (-0.04, -0.02), 0.03, CHANCE, "Over-confident by 0.0300 on 101 images (accuracy minus confidence -0"),
        (0.02, (0.01, 0.03), 0.02, CHANCE, "Under-confident by 0.0200 on 101 images (accuracy minus confidence +0"),
        (0.001, (-0.01, 0.01), 0.03, CHANCE, "No over- or under-confidence shown on 101 images"),
        (0.001, (-0.01, 0.01), 0.03, CHANCE, "ECE 0.0300 is above the noise floor for 101 images (0.0010 expected"),
        (0.001, (-0.01, 0.01), 0.003, CHANCE, "is within the noise floor"),
        (0.001, (-0.01, 0.01), 0.003, CHANCE, "0.0040 at the 95th percentile"),
        (math.nan, NOTHING, math.nan, NOTHING, "No labelled pixel"),
    ],
)  # fmt: skip
def test_the_sentence_names_sign_gap_and_noise_floor(
    gap: float, ends: tuple[float, float], ece: float, chance: tuple[float, float], expected: str
) -> None:
    assert expected in sentence(gap, ends, ece, chance)


def test_few_images_have_no_noise_floor_and_a_warning() -> None:
    few = sentence(0.02, (0.01, 0.03), 0.0213, (0.0, 0.0), 3)
    assert few.endswith("Too few images to compare the ECE 0.0213 with that of a calibrated model.")
    assert "0.0000" not in few
    assert "on 1 image (" in sentence(0.02, (0.02, 0.02), 0.02, (0.0, 0.0), 1)
    assert "noise floor for 20 images" in sentence(0.02, (0.01, 0.03), 0.02, CHANCE, 20)
    (warning,) = few_images_warning(8)
    assert warning.startswith("only 8 images scored")
    assert few_images_warning(20) == []


def test_the_first_epoch_is_a_warning_only_if_later_ones_were_no_better() -> None:
    (warning,) = first_epoch_warning(1, 12, "val/loss")
    assert warning.startswith("the best epoch is the first of 12: val/loss never improved")
    assert first_epoch_warning(2, 12, "val/loss") == first_epoch_warning(1, 1, "val/loss") == []


@pytest.mark.parametrize("ends", [(-0.01, 0.02), (0.0, 0.02), NOTHING])
def test_title_and_sentence_give_the_same_verdict(ends: tuple[float, float]) -> None:
    verdict = confidence_verdict(0.0028, Interval(*ends))
    assert verdict == "no over- or under-confidence shown"
    assert sentence(0.0028, ends, 0.01, CHANCE).lower().startswith(verdict)
    assert confidence_verdict(-0.0028, Interval(-0.005, -0.001)) == "over-confident by 0.0028"


def test_the_protocol_line_holds_the_rules() -> None:
    rules = {"images": 101, "pixels": 1625786, "bins": 10, "interpolation": "bilinear", "precision": "float32"}
    assert protocol_line(rules | {"resolution": [96, 128]}) == (
        "101 images, 1,625,786 pixels · 10 bins (a, b] · size 128 × 96, bilinear · void not counted · float32"
    )
    assert "size each image's own, bilinear" in protocol_line(rules | {"resolution": "each image's own"})


def test_the_crop_note_names_every_split_and_what_works_for_images_of_any_size() -> None:
    note = crop_note({"train": 0.75, "val": 0.8421})
    assert "75.0 % of the pixels of train and 84.2 % of the pixels of val" in note
    assert "score_at=original" in note
    assert "crop=none" not in note


def scores_of(predicted: torch.Tensor, labels: torch.Tensor) -> Scores:
    scores = Scores(Classes.named("sky", "road", "tree"))
    scores.update(5 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float(), labels)
    return scores


def warnings_of(scores: Scores) -> list[str]:
    return prediction_warnings(scores, scores.metrics()["loss"])


def test_a_model_that_predicts_a_single_class_is_flagged() -> None:
    labels = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(0))
    single = torch.ones_like(labels)
    (warning,) = warnings_of(scores_of(single, labels))
    assert "predicts only road (never predicted: sky, tree)" in warning
    assert learned_nothing(scores_of(single, labels)) == "predicts only road"
    assert learned_nothing(scores_of(labels, labels)) == ""
    assert warnings_of(scores_of(labels, labels)) == []
    assert warnings_of(scores_of(single, single)) == [], "the labels hold one class only"


def test_classes_not_found_and_metrics_without_knowledge_are_flagged() -> None:
    labels = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(0))
    without_tree = labels.where(labels < 2, torch.zeros_like(labels))
    missing, loss = warnings_of(scores_of(without_tree, labels))
    assert missing == "never predicted, although the labels hold them: tree"
    frequencies = torch.bincount(labels.flatten()).double() / labels.numel()
    assert f"predicting the class frequencies for every pixel ({-(frequencies * frequencies.log()).sum():.4f})" in loss
    wrong, mean_iou, loss = warnings_of(scores_of((labels + 1) % 3, labels))
    assert wrong == "predicted nearly always wrongly (IoU below 0.005): sky, road, tree"
    assert "mean IoU of 0.0000, not above that of predicting" in mean_iou
    assert loss.startswith("loss ")
