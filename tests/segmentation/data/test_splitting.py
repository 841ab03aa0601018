"""`val_fraction`, `folds` and `group_by` on data sets as they are opened, against counts from their masks."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.config import DATASETS, DataConfig, TrainingConfig
from segmentation.data import HELD_OUT, image_classes, load_split, open_split, shapes
from segmentation.data.source import LabelledImage, Source
from segmentation.errors import InputError


class Videos:
    """Images `vidA_0`, `vidA_1`, …, of random classes; `order` is that of the file system."""

    labels = Classes.named("a", "b", "c", "d", "e")
    location = "memory"

    def __init__(self, videos: int = 8, frames: int = 4, order: int = 0) -> None:
        names = [f"vid{chr(65 + video)}_{frame}" for video in range(videos) for frame in range(frames)]
        self.names = tuple(names[index] for index in np.random.default_rng(order).permutation(len(names)))

    def identity(self) -> str:
        return repr(self.names)

    def pixels(self, index: int) -> int:
        return 64

    def read(self, index: int) -> LabelledImage:
        name = self.names[index]
        random = np.random.default_rng(list(name.encode()))
        mask = random.choice(random.choice(5, 2, p=[0.4, 0.3, 0.2, 0.06, 0.04]), (8, 8)).astype(np.uint8)
        return LabelledImage(Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)), mask, name.encode())


SOURCE: dict[str, Source] = {}


def open_videos(config: DataConfig, split: str) -> Source:
    if split not in SOURCE:
        raise InputError(f"split={split!r} is not known")
    return SOURCE[split]


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DataConfig:
    monkeypatch.setitem(DATASETS, "videos", f"{__name__}:open_videos")
    monkeypatch.setitem(SOURCE, "train", Videos())
    return DataConfig(dataset="videos", resize=None, crop=None, cache_dir=str(tmp_path))


def changed(config: DataConfig, **more: Any) -> DataConfig:
    return DataConfig(**{name: getattr(config, name) for name in config.__dataclass_fields__} | more)


def names(config: DataConfig, split: str) -> set[str]:
    return set(open_split(config, split).names)


def classes_of(name: str) -> set[int]:
    source = SOURCE["train"]
    return set(np.unique(source.read(list(source.names).index(name)).mask).tolist())


def test_the_fraction_is_exact_and_both_sides_show_every_class(videos: DataConfig) -> None:
    config = changed(videos, val_fraction=0.25)
    train, val = names(config, "train"), names(config, "val")
    assert len(val) == 8
    assert len(train) == 24
    assert train | val == set(Videos().names)
    for index in range(5):
        showing = {name for name in train | val if index in classes_of(name)}
        assert len(showing) < 2 or (showing & train and showing & val)


def test_the_division_ignores_the_order_of_the_files_and_all_other_fields(
    videos: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in ({"val_fraction": 0.25}, {"folds": 4, "fold": 2}, {"val_fraction": 0.3, "group_by": "vid."}):
        monkeypatch.setitem(SOURCE, "train", Videos())
        first = names(changed(videos, **more), "val")
        monkeypatch.setitem(SOURCE, "train", Videos(order=1))
        assert names(changed(videos, resize=4, crop=4, dataset_seed=3, **more), "val") == first


def test_folds_are_disjoint_and_cover_all_images(videos: DataConfig) -> None:
    configs = [changed(videos, folds=5, fold=fold) for fold in range(5)]
    parts = [names(config, "val") for config in configs]
    assert [len(part) for part in parts] == [7, 7, 6, 6, 6]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 32
    for config, part in zip(configs, parts, strict=True):
        assert names(config, "train") == set(Videos().names) - part


def test_calibration_images_come_from_the_rest(videos: DataConfig) -> None:
    for more in ({"val_fraction": 0.25}, {"folds": 4, "fold": 1}):
        config = changed(videos, calibration_fraction=0.25, **more)
        train, val, held_out = (names(config, split) for split in ("train", "val", HELD_OUT))
        assert (len(train), len(val), len(held_out)) == (18, 8, 6)
        assert len(train | val | held_out) == 32
        assert val == names(changed(config, calibration_fraction=0.0), "val")


@pytest.mark.parametrize("pattern", ["vid[A-Z]", "vid(.)_"])
def test_groups_stay_whole(videos: DataConfig, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(names: set[str]) -> set[str]:
        return {name[:4] for name in names}

    for more in ({"val_fraction": 0.25}, {"folds": 4, "fold": 1}, {"calibration_fraction": 0.25}):
        config = changed(videos, group_by=pattern, **more)
        part = HELD_OUT if "calibration_fraction" in more else "val"
        assert groups(names(config, part)).isdisjoint(groups(names(config, "train")))
        assert len(names(config, part)) == 8, "two of eight videos with four frames"
    config = changed(videos, group_by=pattern, val_fraction=0.25, calibration_fraction=0.34)
    parts = [groups(names(config, split)) for split in ("train", "val", HELD_OUT)]
    assert sorted(map(len, parts)) == [2, 2, 4]
    assert len(set().union(*parts)) == 8


def test_equal_images_stay_together(videos: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twins(Videos):
        def read(self, index: int) -> LabelledImage:
            twin = int(self.names[index][-1]) // 2
            return super().read(index)._replace(digest=f"{self.names[index][:4]}{twin}".encode())

    monkeypatch.setitem(SOURCE, "train", Twins())
    config = changed(videos, folds=4, fold=0)
    for name in names(config, "val"):
        assert f"{name[:-1]}{int(name[-1]) ^ 1}" in names(config, "val")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"folds": 33, "fold": 0}, "folds=33 is more than the 32 training images: set folds to at most 32"),
        ({"folds": 9, "fold": 0, "group_by": "vid."}, "folds=9 is more than the 32 training images in 8 groups"),
        ({"folds": 4}, "folds=4 needs fold"),
        ({"val_fraction": 0.01}, "val_fraction=0.01 cannot divide the 32 training images: it would hold out 0"),
        ({"val_fraction": 0.5, "group_by": "v"}, "val_fraction=0.5 cannot divide the 32 training images in 1 group:"),
        ({"val_fraction": 0.25, "calibration_fraction": 0.01}, "calibration_fraction=0.01 cannot divide the 24"),
        ({"val_fraction": 0.25, "group_by": "vid[ABC]"}, "group_by='vid.ABC.' does not match .* 20 image.*: vid[D-H]_"),
        ({"val_fraction": 0.25, "group_by": "vid(A)?"}, "group_by=.*does not match the names of 28"),
        ({"val_fraction": 0.25, "val_split": "train"}, "val_split=train must differ|has a split 'train'"),
        ({"folds": 4, "fold": 0, "val_split": "train"}, "val_split=train must differ"),
    ],
)
def test_impossible_divisions_are_refused(videos: DataConfig, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_split(changed(videos, **more), "train")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"val_fraction": 0.2, "folds": 5}, "val_fraction=0.2 and folds=5"),
        ({"val_fraction": -0.1}, "val_fraction=-0.1"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"folds": 1}, "folds=1 is too small"),
        ({"folds": 5, "fold": 5}, "fold=5 is out of range; with folds=5 it is 0 to 4"),
        ({"folds": 5, "fold": -1}, "fold=-1"),
        ({"fold": 0}, "fold=0 needs folds"),
        ({"val_fraction": 0.2, "group_by": "("}, "group_by='.' is not a regular expression"),
        ({"group_by": "x"}, "group_by='x' has no effect"),
    ],
)
def test_contradictions_are_found_in_the_fields(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**more)


def test_an_existing_validation_split_is_not_replaced(videos: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCE, "val", Videos(videos=2))
    with pytest.raises(InputError, match="val_fraction=0.25: videos in memory has a split 'val'.*val_split=part"):
        open_split(changed(videos, val_fraction=0.25), "train")
    config = changed(videos, val_fraction=0.25, val_split="part")
    assert names(config, "val") == set(Videos(videos=2).names), "the data set's own split stays"
    assert len(names(config, "part")) == 8


def test_masks_are_read_once(videos: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(videos, val_fraction=0.25)
    first = names(config, "val")
    (stored,) = Path(str(config.cache_dir)).glob("classes/*.json")

    def fail(source: Source) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(image_classes, "_read", fail)
        assert names(config, "val") == first
    intact = stored.read_text()
    stored.write_text(intact.replace("[", "[0, ", 3))
    assert names(config, "val") == first
    assert stored.read_text() == intact


def test_each_fold_has_its_own_cache(videos: DataConfig) -> None:
    configs = [changed(videos, folds=4, fold=fold) for fold in range(4)]
    for split in ("train", "val"):
        first = [load_split(config, split) for config in configs]
        assert len({each.fingerprint for each in first}) == 4
    caches = set(Path(str(videos.cache_dir)).glob("*/*/about.json"))
    assert len(caches) == 8
    times = [file.stat().st_mtime_ns for file in sorted(caches)]
    for config in configs:
        load_split(config, "train")
    assert [file.stat().st_mtime_ns for file in sorted(caches)] == times


def test_shapes_and_a_folder_without_validation_images(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shapes.COUNTS, "train", 10)
    generated = DataConfig(dataset="shapes", val_fraction=0.2, val_split="part", cache_dir=str(tmp_path / "cache"))
    assert (len(names(generated, "train")), len(names(generated, "part"))) == (8, 2)
    root = tmp_path / "without-val"
    shutil.copytree(own_data, root)
    shutil.rmtree(root / "val")
    config = DataConfig(dataset="folder", data_dir=str(root), val_fraction=0.34, cache_dir=str(tmp_path / "cache"))
    assert (len(names(config, "train")), len(names(config, "val"))) == (4, 2)


def test_images_and_masks_in_one_folder_each_are_divided(own_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    shutil.copytree(own_data / "train", root)
    shutil.copy(own_data / "classes.txt", root)
    config = DataConfig(dataset="folder", data_dir=str(root), cache_dir=str(tmp_path / "cache"))
    assert len(names(config, "train")) == 6
    with pytest.raises(InputError, match="has no split 'val' .*val_fraction=0.2"):
        open_split(config, "val")
    divided = changed(config, val_fraction=0.34)
    assert (len(names(divided, "train")), len(names(divided, "val"))) == (4, 2)
