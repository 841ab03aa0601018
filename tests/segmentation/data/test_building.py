"""What is built, when, in how much memory, and what happens when building fails or several processes build."""

import multiprocessing
import os
import resource
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import Split, building, cache, in_parallel, load_split, open_split
from segmentation.data.preparation import prepare
from segmentation.data.source import LabelledImage
from segmentation.errors import InputError

FORK = multiprocessing.get_context("fork")


def run_in_processes(*functions: Callable[[], None]) -> list[int | None]:
    """Run functions in forked processes at once, and return the exit codes."""
    processes = [FORK.Process(target=function) for function in functions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_a_split_holds_exactly_the_decoded_and_prepared_images(config: DataConfig) -> None:
    split, source = load_split(config, "train"), open_split(config, "train")
    assert isinstance(split, Split)
    assert len(split) == len(split.names) == len(split.images) == len(split.masks) == 6
    for index in range(6):
        original = source.read(index)
        image, mask = prepare(original.image, original.mask, config, "x")
        np.testing.assert_array_equal(split.images[index], image)
        np.testing.assert_array_equal(split.masks[index], mask)
    assert isinstance(split.images, np.memmap)
    assert split.images.dtype == np.uint8


def test_the_fraction_of_original_pixels_inside_the_crop_is_known(voc: Path) -> None:
    """Each pixel of a resized image stands for an equal part of the original image's area."""
    config = DataConfig(dataset="voc2007", data_dir=str(voc), resize=32, crop=30)
    source = open_split(config, "train")
    inside, total = 0.0, 0
    for index in range(4):
        original = source.read(index)
        whole, _ = prepare(original.image, original.mask, replace(config, crop=None), "x")
        inside += original.mask.size / (whole.shape[0] * whole.shape[1]) * 30 * 30
        total += original.mask.size
    split = load_split(config, "train")
    assert split.in_crop == load_split(config, "train").in_crop == pytest.approx(inside / total)
    assert 0.5 < split.in_crop < 0.8


def test_a_new_split_is_verified_once_and_opening_it_reads_no_array(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def crc32(content: memoryview, start: int) -> int:
        checked.append(memoryview(content).nbytes)
        return zlib.crc32(content, start)

    for module in (building, cache):
        monkeypatch.setattr(module, "zlib", SimpleNamespace(crc32=crc32))
    split = load_split(config, "train")
    size = split.images.nbytes + split.masks.nbytes
    assert sum(checked) == 2 * size  # written, and read back
    again = load_split(config, "train")
    assert sum(checked) == 2 * size
    assert again.fingerprint == split.fingerprint
    np.testing.assert_array_equal(again.images, split.images)


@pytest.mark.parametrize(
    ("images", "limit", "least", "most"),
    [(40, 4, 3, 5), (5, 4, 3, 5), (5, 0.01, 1, 2)],
    ids=["many", "few", "one above the limit"],
)
def test_images_in_preparation_stay_below_the_memory_limit(
    images: int, limit: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit allows for four images at once, and one more is being written; or for less than one image."""
    monkeypatch.setattr(in_parallel, "MAX_BYTES_IN_FLIGHT", limit * 100 * in_parallel.BYTES_PER_PIXEL)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    in_flight, peak, lock = 0, 0, threading.Lock()

    class Slow:
        names = tuple(str(index) for index in range(images))

        def pixels(self, index: int) -> int:
            return 100

        def read(self, index: int) -> LabelledImage:
            nonlocal in_flight, peak
            with lock:
                in_flight += 1
                peak = max(peak, in_flight)
            time.sleep(0.01 if index % 4 else 0.03)
            return LabelledImage(Image.new("RGB", (10, 10), (index, 0, 0)), np.full((10, 10), index, np.uint8), b"")

    found = []
    for prepared in building._prepared(Slow(), DataConfig(resize=None, crop=None)):  # type: ignore[arg-type]
        found.append((int(prepared.image[0, 0, 0]), int(prepared.mask[0, 0])))
        with lock:
            in_flight -= 1
    assert found == [(index, index) for index in range(images)]
    assert least <= peak <= most


def test_a_failed_build_leaves_no_split_behind(config: DataConfig, own_data: Path) -> None:
    (own_data / "train/images/5.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"5\.jpg"):
        load_split(config, "train")
    assert not list(Path(str(config.cache_dir)).glob("*/*/"))


def test_a_full_disk_is_reported_and_leaves_no_array_behind(config: DataConfig, tmp_path: Path) -> None:
    """A limit on the size of files, set in another process, stops the writing as a full disk does."""

    def load() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(InputError) as refusal:
            load_split(config, "train")
        (tmp_path / "message").write_text(str(refusal.value))

    assert run_in_processes(load) == [0]
    message = (tmp_path / "message").read_text()
    assert "the cache of own/train could not be written" in message
    assert "Make room there or choose another cache_dir" in message
    assert not list(Path(str(config.cache_dir)).glob("*/*/"))


def test_a_cache_folder_that_cannot_be_created_is_reported(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/below.*choose another cache_dir"):
        load_split(replace(config, cache_dir=str(tmp_path / "file" / "below")), "train")


def test_one_of_several_processes_builds_and_the_others_wait(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = building._write

    def write_slowly(source: cache.Source, config: DataConfig, split: str, folder: Path, whole: bool) -> None:
        with (tmp_path / "builds").open("a") as builds:
            builds.write("built\n")
        time.sleep(0.5)
        write(source, config, split, folder, whole)

    def loading(number: int) -> Callable[[], None]:
        def load() -> None:
            with (tmp_path / f"printed-{number}").open("w") as printed, pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.stdout", printed)
                assert len(load_split(config, "train")) == 6

        return load

    monkeypatch.setattr(building, "_write", write_slowly)
    assert run_in_processes(loading(0), loading(1), loading(2)) == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"
    printed = sorted((tmp_path / f"printed-{number}").read_text() for number in range(3))
    assert printed == ["", *2 * ["Waiting for another process that prepares own/train.\n"]]
