"""Weights of the classes beside scikit-learn's and a calculation by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from segmentation.classes import Classes
from segmentation.config import TrainingConfig
from segmentation.data.split import Split
from segmentation.errors import InputError
from segmentation.training.class_weights import class_weights, extreme


@pytest.fixture
def split() -> Split:
    """Two images of 10 pixels: class 0 in both, class 1 in the first, class 2 in the second, class 3 in none."""
    masks = np.array([[[0] * 6 + [1] * 2 + [255] * 2], [[0] * 3 + [2] * 7]], dtype=np.uint8)
    images = np.zeros((*masks.shape, 3), np.uint8)
    labels = Classes.named("background", "cat", "dog", "horse")
    return Split("folder", "train", "somewhere", labels, ("a", "b"), images, masks, "f", ("a", "b"))


def weights_of(split: Split, value: str | Path) -> list[float]:
    weights = class_weights(TrainingConfig(class_weights=str(value)), split)
    assert weights is not None
    return weights.tolist()


def test_inverse_weights_are_scikit_learn_s_balanced_ones(split: Split) -> None:
    labels = split.masks[split.masks != 255]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights_of(split, "inverse") == pytest.approx([*expected, 0.0])


def test_median_frequency_weights_are_those_by_hand(split: Split) -> None:
    frequencies = np.array([9 / 18, 2 / 8, 7 / 10])
    assert weights_of(split, "median_frequency") == pytest.approx([*(0.5 / frequencies), 0.0])


def test_none_gives_no_weights(split: Split) -> None:
    assert class_weights(TrainingConfig(), split) is None


def test_weights_of_a_file_follow_the_names(split: Split, tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({"dog": 3, "cat": 0.5, "background": 0, "horse": 1}))
    assert weights_of(split, file) == [0, 0.5, 3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "must hold an object"),
        ('{"background": 1, "cat": 1, "dog": 1}', "no weight of horse"),
        ('{"background": 1, "cat": 1, "dog": 1, "horse": 1, "cow": 1}', "cow is no class"),
        ('{"background": 1, "cat": -1, "dog": 1, "horse": 1}', "weight of cat is -1"),
        ('{"background": 1, "cat": NaN, "dog": 1, "horse": 1}', "weight of cat is nan"),
        ('{"background": true, "cat": 1, "dog": 1, "horse": 1}', "weight of background is True"),
        ('{"background": 0, "cat": 0, "dog": 0, "horse": 0}', "all weights are 0"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(split: Split, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "weights.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        class_weights(TrainingConfig(class_weights=str(file)), split)
    assert f"class_weights={file}" in str(raised.value)


def test_extreme_weights_are_those_of_a_thousand_times_the_median() -> None:
    """A class without pixels has weight 0 and does not count in the median, which is 2 here."""
    assert extreme(torch.tensor([0.0, 0.1, 2.0, 2001.0])) == [3]
    assert extreme(torch.tensor([0.0, 0.1, 2.0, 1999.0])) == []
    assert extreme(torch.zeros(3)) == []
