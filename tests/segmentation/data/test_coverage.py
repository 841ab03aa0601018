import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import Split, load_split, report_coverage
from segmentation.errors import InputError


def write_masks(root: Path, values: tuple[int, ...] = (0, 255), split: str = "train") -> None:
    """Replace all masks by blocks of random values."""
    for file in (root / split / "masks").iterdir():
        blocks = np.random.default_rng(int(file.stem)).choice(np.array(values, np.uint8), (5, 6))
        Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8))).save(file)


def load(root: Path, split: str = "train") -> Split:
    return load_split(DataConfig(dataset="folder", data_dir=str(root), resize=None, crop=None), split)


def test_two_classes_with_masks_of_0_and_255_are_refused_with_a_classes_json(own_data: Path) -> None:
    (own_data / "classes.txt").write_text("background\nroad\n")
    write_masks(own_data)
    for _ in range(2):  # newly prepared, then cached
        with pytest.raises(InputError, match=r"no pixel of own/train is of class road, and .*% are void") as refusal:
            report_coverage(load(own_data), to_train=True)
    content = str(refusal.value)[str(refusal.value).index("{") :]
    assert json.loads(content) == {"background": 0, "road": 255}
    assert f"{own_data}/classes.json" in str(refusal.value)
    (own_data / "classes.json").write_text(content)
    report_coverage(load(own_data), to_train=True)
    assert set(np.unique(load(own_data).masks)) == {0, 1}


def test_a_class_without_pixels_and_mostly_void_are_printed_once(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_masks(own_data, (0, 1, 255, 255, 255, 255))
    void = np.mean([np.asarray(Image.open(file)) == 255 for file in (own_data / "train/masks").iterdir()])
    for _ in range(2):
        report_coverage(load(own_data), to_train=True)
    printed = capsys.readouterr().out
    assert printed.count("Warning: no pixel of own/train is of class blue") == 1
    assert printed.count(f"Warning: {void:.1%} of the pixels of own/train are void") == 1
    report_coverage(load(own_data, "val"))
    assert not capsys.readouterr().out


def test_a_foreground_of_255_is_a_warning_for_more_classes_and_for_scored_splits(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_masks(own_data)
    report_coverage(load(own_data), to_train=True)
    assert '{"red": 0, "green": 255, "blue": 2}' in capsys.readouterr().out
    (own_data / "classes.txt").write_text("background\nroad\n")
    write_masks(own_data, split="val")
    report_coverage(load(own_data, "val"))
    assert '{"background": 0, "road": 255}' in capsys.readouterr().out
