from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.data import HELD_OUT, load_split, open_split
from segmentation.data.held_out import held_out
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
    index = whole.names.index(held_out.names[1])
    assert (held_out.images[1] == whole.images[index]).all()


def test_every_seed_holds_out_the_same_images_and_the_other_splits_stay_whole(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=10)
    assert load_split(config(root, seed=5), HELD_OUT).names == load_split(config(root), HELD_OUT).names
    whole = load_split(config(root, calibration_fraction=0.0), "val")
    assert load_split(config(root), "val").fingerprint == whole.fingerprint


def test_a_fraction_that_holds_out_no_image_is_refused(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=4)
    with pytest.raises(InputError, match="calibration_fraction=0.1 holds out 0 of 4 training images"):
        load_split(config(root, calibration_fraction=0.1), "train")
    with pytest.raises(InputError, match="split=held_out: .*calibration_fraction=0.15"):
        load_split(config(root, calibration_fraction=0.0), HELD_OUT)


class Counted(dict[str, tuple[Path, Path]]):
    """Files that count how often their names are iterated over."""

    iterated = 0

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.iterated += 1
            yield name


def test_holding_out_iterates_over_the_names_once(tmp_path: Path) -> None:
    """Otherwise reading `N` images would take time that grows with the square of `N`."""
    images = 100
    file = tmp_path / "one.png"
    Image.new("L", (2, 3)).save(file)
    files = Counted({str(number): (file, file) for number in range(images)})
    files.iterated = 0
    subset = held_out(ImagePairs(Classes.named("a", "b"), "here", files, {0: 0}), 0.5, chosen=False)
    for index in range(images // 2):
        assert subset.names[index] == subset.whole.names[subset.indices[index]]
        assert subset.pixels(index) == 6
        assert subset.read(index).mask.shape == (3, 2)
    assert files.iterated == images


@pytest.mark.parametrize("change", [{}, {"dataset": "shapes"}, {"calibration_fraction": 0.0}])
def test_names_are_the_same_object_at_each_access(change: dict[str, object], tmp_path: Path) -> None:
    source = open_split(config(write_own_data(tmp_path, train=10), **change), "train")
    assert source.names is source.names
