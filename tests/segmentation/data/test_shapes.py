import numpy as np

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.data.shapes import COUNTS


def test_shapes_depend_on_seed_and_split_only() -> None:
    config = DataConfig(dataset="shapes")
    first, again = open_split(config, "val"), open_split(config, "val")
    seeded = open_split(DataConfig(dataset="shapes", dataset_seed=1), "val")
    train = open_split(config, "train")
    assert (len(first.names), len(train.names)) == (COUNTS["val"], COUNTS["train"])
    assert first.read(0).digest == again.read(0).digest
    assert len({source.read(0).digest for source in (first, seeded, train)}) == 3
    assert len({source.identity() for source in (first, seeded, train)}) == 3


def test_the_masks_have_all_classes_and_void() -> None:
    source = open_split(DataConfig(dataset="shapes"), "val")
    originals = [source.read(index) for index in range(12)]
    assert {original.image.size for original in originals} == {(128, 128)}
    assert set(np.unique([original.mask for original in originals])) == {0, 1, 2, 3, 4, 5, 255}
