import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.datasets import DATASETS, cache, load_split
from segmentation.datasets.cache import Split
from segmentation.errors import InputError
from segmentation.transforms import prepare
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


def lost_array(folder: Path) -> None:
    (folder / "images.npy").unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty_about, other_about, lost_array])
def test_a_damaged_one_is_noticed_and_made_again(
    damage: object, config: DataConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = np.array(load_split(config, "train").images)
    damage(kept(config))
    builds = built(monkeypatch)
    np.testing.assert_array_equal(load_split(config, "train").images, expected)
    assert len(builds) == 1
    assert "is damaged; it is made again" in capsys.readouterr().out


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
        "from segmentation.datasets import load_split\n"
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
        "from segmentation.datasets import load_split\n"
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
