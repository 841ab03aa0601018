"""A data set is added by its own file and one line in `segmentation.config.DATASETS`."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from segmentation import config
from segmentation.classes import Classes
from segmentation.config import DATASETS, DataConfig
from segmentation.data import load_split
from segmentation.data.source import LabelledImage
from segmentation.errors import InputError
from tests.conftest import PROJECT


class Plain:
    """A data set of three images of one colour."""

    labels, location, names = Classes.named("a", "b"), "nowhere", ("x", "y", "z")

    def identity(self) -> str:
        return "1"

    def pixels(self, index: int) -> int:
        return 64

    def read(self, index: int) -> LabelledImage:
        return LabelledImage(Image.new("RGB", (8, 8), (index, 0, 0)), np.ones((8, 8), np.uint8), bytes([index]))


def open_plain(config: DataConfig, split: str) -> Plain:
    return Plain()


def test_a_line_in_the_registry_adds_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "plain", f"{__name__}:open_plain")
    split = load_split(DataConfig(dataset="plain", resize=None, crop=None), "train")
    assert split.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_the_command_line_offers_the_registered_data_sets() -> None:
    assert get_args(config.Dataset) == tuple(DATASETS)
    with pytest.raises(InputError, match="dataset='shape' is not known. Did you mean 'shapes'"):
        load_split(DataConfig(dataset="shape"), "train")


def test_a_registered_name_is_repeated_nowhere_else() -> None:
    files = [file for part in ("segmentation", "studies") for file in (PROJECT / part).rglob("*.py")]
    naming = {file.relative_to(PROJECT) for file in files if '"camvid"' in file.read_text()}
    assert naming == {Path("segmentation/config.py")}
