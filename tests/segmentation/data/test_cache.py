"""Which key a cached split has, and which damage is detected when."""

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import HELD_OUT, building, cache, load_split
from tests.segmentation.data.conftest import cached_folder

OTHER = {
    "resize": 40, "crop": 30, "interpolation": "nearest", "calibration_fraction": 0.5, "dataset_seed": 5,
    "dataset": "folder", "data_dir": ".", "download": True, "train_split": "val", "val_split": "train",
    "cache_dir": "elsewhere", "image_suffix": "_image", "mask_suffix": "_mask", "empty": "background",
    "channels": 4, "val_fraction": 0.5, "folds": 3, "fold": 1, "group_by": "a",
    "score_crop": "whole", "crop_at": "class",
}  # fmt: skip


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that are built during the test."""
    folders: list[Path] = []
    write = building._write_folder

    def recorded(source: cache.Source, config: DataConfig, split: str, folder: Path, whole: bool) -> None:
        folders.append(folder)
        write(source, config, split, folder, whole)

    monkeypatch.setattr(building, "_write_folder", recorded)
    return folders


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig)])
def test_every_data_field_is_part_of_the_keys(name: str) -> None:
    """A new field must be added to `OTHER`, and is part of both keys unless `NOT_IN_KEY` gives a reason."""
    one = DataConfig(dataset="shapes", data_dir="here", download=False)
    other = replace(one, **{name: OTHER[name]})
    assert cache.data_fields(one) != cache.data_fields(other)
    if name not in cache.NOT_IN_KEY:
        assert [*cache._key_fields(one, "val")] != [*cache._key_fields(other, "val")]
    assert set(cache.NOT_IN_KEY) < set(OTHER)


@pytest.mark.parametrize("change", [{"resize": 40}, {"crop": 30}, {"interpolation": "nearest"}])
def test_each_preparation_is_cached_separately(config: DataConfig, change: dict[str, object]) -> None:
    load_split(config, "train")
    other = DataConfig(**(vars(config) | change))
    assert not np.array_equal(load_split(other, "train").images, load_split(config, "train").images)
    assert len(list(Path(str(config.cache_dir)).glob("*/*/"))) == 2


def test_each_held_out_fraction_is_cached_separately(config: DataConfig) -> None:
    """Studies search `calibration_fraction`: concurrent trials must not remove each other's cached splits."""
    for more in ({}, {"calibration_fraction": 0.4}, {"train_split": "val"}):
        chosen = replace(config, **{"calibration_fraction": 0.2, **more})
        for split in (HELD_OUT, chosen.train_split):
            load_split(chosen, split)
    assert len(list(Path(str(config.cache_dir)).glob("*/*/"))) == 6


def test_a_changed_source_file_makes_the_split_stale_and_removes_the_old_folder(
    config: DataConfig, own_data: Path
) -> None:
    before = load_split(config, "train")
    Image.new("RGB", (48, 40), (9, 9, 9)).save(own_data / "train/images/0.jpg")
    after = load_split(config, "train")
    assert (after.images[0] == 9).all()
    assert after.fingerprint != before.fingerprint
    assert cached_folder(config).exists()


def test_the_fingerprint_depends_on_content_not_on_the_folder(
    config: DataConfig, own_data: Path, tmp_path: Path
) -> None:
    before = load_split(config, "train").fingerprint
    moved = own_data.rename(tmp_path / "moved")
    os.utime(moved / "train/images/0.jpg", (1, 1))
    again = DataConfig(**(vars(config) | {"data_dir": str(moved)}))
    assert load_split(again, "train").fingerprint == before


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "images.npy").read_bytes())
    content[-100] ^= 1
    (folder / "images.npy").write_bytes(content)


def cut_short(folder: Path) -> None:
    content = (folder / "masks.npy").read_bytes()
    (folder / "masks.npy").write_bytes(content[: len(content) // 2])


def empty_about(folder: Path) -> None:
    (folder / "about.json").write_text("")


def other_about(folder: Path) -> None:
    (folder / "about.json").write_text(json.dumps([1, 2]))


def other_counts(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    about["counts"][0], about["counts"][1] = about["counts"][1], about["counts"][0]
    (folder / "about.json").write_text(json.dumps(about))


def lost_array(folder: Path) -> None:
    (folder / "images.npy").unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty_about, other_about, other_counts, lost_array])
def test_a_damaged_split_is_built_again(
    damage: Callable[[Path], None], config: DataConfig, builds: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = np.array(load_split(config, "train").images)
    damage(cached_folder(config))
    np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert len(builds) == 2
    assert "is damaged; it is built again" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, other_counts, lost_array])
def test_a_damaged_split_of_whole_images_is_built_again(
    damage: Callable[[Path], None], config: DataConfig, builds: list[Path]
) -> None:
    expected = load_split(config, "train", whole=True)
    pixels = [np.array(image) for image in expected.images]
    damage(cached_folder(config))
    found = load_split(config, "train", whole=True)
    assert found.counts == expected.counts
    for image, before in zip(found.images, pixels, strict=True):
        np.testing.assert_array_equal(image, before)
    assert len(builds) == 2
    assert cache.verified_about(cached_folder(config)) is not None


def test_a_copy_with_other_times_is_verified_once_and_used(
    config: DataConfig, builds: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = np.array(load_split(config, "train").images)
    for file in cached_folder(config).iterdir():  # as after `cp -r`
        os.utime(file, (1, 1))
    checks = []
    verify = cache.verified_about
    monkeypatch.setattr(cache, "verified_about", lambda folder: checks.append(folder) or verify(folder))
    for _ in range(3):
        np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert (len(builds), checks) == (1, [cached_folder(config)])
    assert capsys.readouterr().out == ""


def test_damage_that_only_checksums_detect_is_repaired_after_discarding(config: DataConfig) -> None:
    expected = np.array(load_split(config, "train").images)
    folder = cached_folder(config)
    before = (folder / "images.npy").stat()
    flip_a_bit(folder)
    os.utime(folder / "images.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.verified_about(folder) is None
    cache.discard(folder)
    np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert cache.verified_about(folder) is not None


def test_abandoned_folders_of_dead_processes_are_removed_after_a_day(config: DataConfig, own_data: Path) -> None:
    load_split(config, "train")
    parent = cached_folder(config).parent
    old, new = parent / ".building-old", parent / ".building-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"begun")
    yesterday = new.stat().st_mtime - cache.ABANDONED_SECONDS - 60
    os.utime(old, (yesterday, yesterday))
    Image.new("RGB", (48, 40), (9, 9, 9)).save(own_data / "train/images/0.jpg")
    load_split(config, "train")
    assert (old.exists(), new.exists()) == (False, True)
