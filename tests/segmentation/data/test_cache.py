import json
import os
import resource
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import DATASETS, HELD_OUT, cache, load_split
from segmentation.data.cache import Split
from segmentation.data.preparation import prepare
from segmentation.data.source import LabelledImage
from segmentation.errors import InputError
from tests.conftest import PROJECT


@pytest.fixture
def config(own_data: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(own_data), resize=32, crop=32, cache_dir=str(tmp_path / "kept"))


def kept(config: DataConfig) -> Path:
    """The one folder that holds a cached split."""
    (folder,) = Path(str(config.cache_dir)).glob("*/*")
    return folder


def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where a cache was built from now on."""
    built: list[Path] = []
    original = cache._build

    def noted(source: cache.Source, config: DataConfig, split: str, folder: Path) -> None:
        built.append(folder)
        original(source, config, split, folder)

    monkeypatch.setattr(cache, "_build", noted)
    return built


def test_holds_exactly_what_decoding_and_preparing_give(config: DataConfig) -> None:
    split, source = load_split(config, "train"), DATASETS["folder"](config, "train")
    for index in range(6):
        picture = source.read(index)
        image, mask = prepare(picture.image, picture.mask, config, "x")
        np.testing.assert_array_equal(split.images[index], image)
        np.testing.assert_array_equal(split.masks[index], mask)
    assert isinstance(split.images, np.memmap)
    assert split.images.dtype == np.uint8


def test_knows_which_fraction_of_all_original_pixels_lies_in_the_crop(voc: Path) -> None:
    """Images of several sizes: each pixel of a resized image stands for an equal part of the original's area."""
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=32, crop=30)
    source = DATASETS["voc2007"](config, "train")
    kept, total = 0.0, 0
    for index in range(4):
        found = source.read(index)
        whole, _ = prepare(found.image, found.mask, replace(config, crop=None), "x")
        kept += found.mask.size / (whole.shape[0] * whole.shape[1]) * 30 * 30
        total += found.mask.size
    split = load_split(config, "train")
    assert split.in_crop == load_split(config, "train").in_crop == pytest.approx(kept / total)
    assert 0.5 < split.in_crop < 0.8


def test_is_built_once_and_then_only_read(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_split(config, "train")
    builds = built(monkeypatch)
    second = load_split(config, "train")
    assert not builds
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)


@pytest.mark.parametrize("change", [{"resize": 40}, {"crop": 30}, {"interpolation": "nearest"}])
def test_other_preparation_has_a_cache_of_its_own(config: DataConfig, change: dict[str, object]) -> None:
    load_split(config, "train")
    other = DataConfig(**(vars(config) | change))
    assert not np.array_equal(load_split(other, "train").images, load_split(config, "train").images)
    assert len(list(Path(str(config.cache_dir)).glob("*/*"))) == 2


def test_a_changed_file_makes_it_stale_and_the_old_one_goes(config: DataConfig, own_data: Path) -> None:
    before = load_split(config, "train")
    Image.new("RGB", (48, 40), (9, 9, 9)).save(own_data / "train/images/0.jpg")
    after = load_split(config, "train")
    assert (after.images[0] == 9).all()
    assert after.fingerprint != before.fingerprint
    assert kept(config).exists()


def test_the_fingerprint_depends_on_contents_not_on_the_place(
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
def test_a_damaged_one_is_noticed_and_made_again(
    damage: object, config: DataConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = np.array(load_split(config, "train").images)
    damage(kept(config))
    builds = built(monkeypatch)
    np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert len(builds) == 1
    assert "is damaged; it is made again" in capsys.readouterr().out


def test_opening_reads_no_array_and_a_whole_check_is_made_when_it_is_built(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(content: memoryview, start: int) -> int:
        read.append(memoryview(content).nbytes)
        return zlib.crc32(content, start)

    monkeypatch.setattr(cache, "zlib", SimpleNamespace(crc32=counted))
    split = load_split(config, "train")
    size = split.images.nbytes + split.masks.nbytes
    assert sum(read) == 2 * size  # written, and read back
    again = load_split(config, "train")
    assert sum(read) == 2 * size
    values, counts = np.unique(again.masks, return_counts=True)
    assert {value: count for value, count in enumerate(again.pixels_by_value()) if count} == dict(
        zip(values.tolist(), counts.tolist(), strict=True)
    )


def test_pixels_that_nobody_has_counted_are_counted(config: DataConfig) -> None:
    split = load_split(config, "train")
    assert replace(split, counts=None).pixels_by_value() == split.pixels_by_value()
    assert sum(split.pixels_by_value()) == split.masks.size


def copied(folder: Path) -> None:
    """As `cp -r` leaves it: with other times."""
    for file in folder.iterdir():
        os.utime(file, (1, 1))


def test_a_copy_with_other_times_is_checked_once_and_taken(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = np.array(load_split(config, "train").images)
    copied(kept(config))
    builds, checks = built(monkeypatch), []
    whole = cache.whole
    monkeypatch.setattr(cache, "whole", lambda folder: checks.append(folder) or whole(folder))
    for _ in range(3):
        np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert (builds, checks) == ([], [kept(config)])
    assert capsys.readouterr().out == ""


def test_what_only_the_whole_check_sees_is_made_again_once_it_was_discarded(config: DataConfig) -> None:
    expected = np.array(load_split(config, "train").images)
    folder = kept(config)
    before = (folder / "images.npy").stat()
    flip_a_bit(folder)
    os.utime(folder / "images.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.whole(folder) is None
    cache.discard(folder)
    np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert cache.whole(folder) is not None


OTHER = {
    "resize": 40, "crop": 30, "interpolation": "nearest", "calibration_fraction": 0.5, "dataset_seed": 5,
    "dataset": "folder", "data_dir": ".", "download": True, "train_split": "val", "val_split": "train",
    "cache_dir": "elsewhere",
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(DataConfig)])
def test_every_field_of_the_data_is_in_the_key_of_what_depends_on_it(name: str) -> None:
    """A field that is new has to be added here, and is in both keys unless somebody has said why not."""
    one = DataConfig(dataset="shapes", data_dir="here", download=False)
    other = replace(one, **{name: OTHER[name]})
    assert cache.data_fields(one) != cache.data_fields(other)
    if name not in cache.ELSEWHERE:
        assert [*cache._named(one, "val")] != [*cache._named(other, "val")]
    assert set(cache.ELSEWHERE) < set(OTHER)


def test_what_is_held_out_of_another_split_or_of_another_share_is_kept_beside_it(config: DataConfig) -> None:
    """Studies search `calibration_fraction`: trials that are under way at once must not remove each other's copies."""
    for more in ({}, {"calibration_fraction": 0.4}, {"train_split": "val"}):
        chosen = replace(config, **{"calibration_fraction": 0.2, **more})
        for split in (HELD_OUT, chosen.train_split):
            load_split(chosen, split)
    assert len(list(Path(str(config.cache_dir)).glob("*/*"))) == 6


@pytest.mark.parametrize("pictures", [40, 5], ids=["many", "few"])
def test_images_that_are_prepared_together_take_no_more_than_they_may(
    pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes 1 of 4 shares of what may be taken: four at once, or five with the one that is being written."""
    monkeypatch.setattr(cache, "IN_FLIGHT", 4 * 100 * cache.BYTES_A_PIXEL)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    under_way, most, lock = 0, 0, threading.Lock()

    class Slow:
        names = tuple(str(index) for index in range(pictures))

        def pixels(self, index: int) -> int:
            return 100

        def read(self, index: int) -> LabelledImage:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.01 if index % 4 else 0.03)
            return LabelledImage(Image.new("RGB", (10, 10), (index, 0, 0)), np.full((10, 10), index, np.uint8), b"")

    found = []
    for image, mask, _ in cache._prepared(Slow(), DataConfig(resize=None, crop=None)):  # type: ignore[arg-type]
        found.append((int(image[0, 0, 0]), int(mask[0, 0])))
        with lock:
            under_way -= 1
    assert found == [(index, index) for index in range(pictures)]
    assert 3 <= most <= 5


def test_an_image_larger_than_all_may_be_is_prepared_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "IN_FLIGHT", 1)
    config = DataConfig(dataset="shapes", resize=None, crop=None)
    assert len([*cache._prepared(DATASETS["shapes"](config, "val"), config)]) == 96


def test_a_failed_build_leaves_nothing_behind(config: DataConfig, own_data: Path) -> None:
    (own_data / "train/images/5.jpg").write_text("no image")
    with pytest.raises(InputError):
        load_split(config, "train")
    assert not list(Path(str(config.cache_dir)).glob("*/*"))
    assert not list(Path(str(config.cache_dir)).glob("*/.*"))


def test_no_space_is_told_and_leaves_nothing_behind(config: DataConfig) -> None:
    """A real limit on file size, set in a process of its own, stops the writing as a full disk does."""
    program = (
        "import resource, sys\n"
        "from segmentation.config import DataConfig\n"
        "from segmentation.data import load_split\n"
        "from segmentation.errors import InputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        f"try: load_split(DataConfig(**{vars(config)!r}), 'train')\n"
        "except InputError as error: print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "the cache of folder/train could not be written" in done.stdout
    assert "Make room there or choose another cache_dir" in done.stdout
    assert not [path for path in Path(str(config.cache_dir)).rglob("*") if path.is_file()]


def test_a_cache_folder_that_cannot_be_made_is_told(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no cache can be made in .*choose another cache_dir"):
        load_split(DataConfig(**(vars(config) | {"cache_dir": str(tmp_path / "file" / "below")})), "train")


def test_what_builders_that_died_have_left_goes_after_a_day(config: DataConfig, own_data: Path) -> None:
    load_split(config, "train")
    place = kept(config).parent
    old, new = place / ".building-old", place / ".building-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"begun")
    yesterday = new.stat().st_mtime - cache.ABANDONED - 60
    os.utime(old, (yesterday, yesterday))
    Image.new("RGB", (48, 40), (9, 9, 9)).save(own_data / "train/images/0.jpg")
    load_split(config, "train")
    assert (old.exists(), new.exists()) == (False, True)


def test_two_processes_that_build_at_once_both_succeed(config: DataConfig) -> None:
    program = (
        "from segmentation.config import DataConfig\n"
        "from segmentation.data import load_split\n"
        f"print(load_split(DataConfig(**{vars(config)!r}), 'train').fingerprint)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {process.communicate()[0].splitlines()[-1] for process in running}  # some have said that they wait
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == {load_split(config, "train").fingerprint}


def test_a_split_is_as_long_as_its_names(config: DataConfig) -> None:
    split = load_split(config, "val")
    assert isinstance(split, Split)
    assert len(split) == len(split.names) == len(split.images) == len(split.masks) == 3
