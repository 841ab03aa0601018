from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.data import HELD_OUT, held_out, load_split, open_split
from segmentation.data.pairs import ImagePairs
from segmentation.errors import InputError
from studies.config import TrainConfig
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


class Counted(dict[str, tuple[Path, Path]]):
    """Files that count how many of their names are looked at one after the other."""

    walked = 0

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.walked += 1
            yield name


@pytest.mark.parametrize("images", [1_000, 2_000])
def test_holding_out_looks_at_each_name_once(images: int, tmp_path: Path) -> None:
    """However often names, images and the split's identity are asked for; it was once for each image of each image."""
    file = tmp_path / "one.png"
    Image.new("L", (2, 3)).save(file)
    files = Counted({str(number): (file, file) for number in range(images)})
    files.walked = 0
    part = held_out(ImagePairs(Classes.named("a", "b"), "here", files, {0: 0}), 0.5, chosen=False)
    for index in range(images // 2):
        assert part.names[index] == part.whole.names[part.places[index]]
        assert part.pixels(index) == 6
        assert part.read(index).mask.shape == (3, 2)
    assert files.walked == images


@pytest.mark.parametrize("change", [{}, {"dataset": "shapes"}, {"calibration_fraction": 0.0}])
def test_names_are_the_same_object_at_each_access(change: dict[str, object], tmp_path: Path) -> None:
    source = open_split(config(write_own_data(tmp_path, train=10), **change), "train")
    assert source.names is source.names
