from pathlib import Path

import pytest

from segmentation.config import TrainConfig
from segmentation.datasets import HELD_OUT, load_split
from segmentation.errors import InputError
from tests.conftest import write_own_data


def config(root: Path, **more: object) -> TrainConfig:
    values = {"dataset": "folder", "data_dir": str(root), "resize": 32, "crop": 32, "calibration_fraction": 0.3}
    return TrainConfig(**values | more)  # type: ignore[arg-type]


def test_the_held_out_images_and_the_rest_make_up_the_training_split(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=10)
    train, held_out = load_split(config(root), "train"), load_split(config(root), HELD_OUT)
    whole = load_split(config(root, calibration_fraction=0.0), "train")
    assert len(held_out) == 3
    assert set(train.names) | set(held_out.names) == set(whole.names)
    assert not set(train.digests) & set(held_out.digests)
    assert set(train.digests) | set(held_out.digests) == set(whole.digests)
    assert len({train.fingerprint, held_out.fingerprint, whole.fingerprint}) == 3
    place = whole.names.index(held_out.names[1])
    assert (held_out.images[1] == whole.images[place]).all()


def test_every_seed_holds_out_the_same_images_and_the_other_splits_stay_whole(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=10)
    assert load_split(config(root, seed=5), HELD_OUT).names == load_split(config(root), HELD_OUT).names
    whole = load_split(config(root, calibration_fraction=0.0), "val")
    assert load_split(config(root), "val").fingerprint == whole.fingerprint


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=4)
    with pytest.raises(InputError, match="calibration_fraction=0.1 holds out 0 of 4 training images"):
        load_split(config(root, calibration_fraction=0.1), "train")
    with pytest.raises(InputError, match="split=held_out: no training images were held out"):
        load_split(config(root, calibration_fraction=0.0), HELD_OUT)
