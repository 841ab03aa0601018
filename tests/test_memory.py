"""Data larger than memory: neither training nor preparing images holds more of them than it works on."""

import ctypes
import multiprocessing
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data import Split, cache, open_split
from segmentation.models.segmenter import Segmenter
from segmentation.prediction.predictor import Predictor, at_size
from segmentation.training.loop import Data, train
from studies.config import TrainConfig
from studies.models.served import Refused, ServedModel
from studies.runs.training import _mention_oddities

FEW, MANY, SIDE = 100, 4_000, 64
MASKS = MANY * SIDE**2
"""Bytes of the masks of many images; their pictures have three times as many."""
SEEN = 1024
"""Pixels of a side as a served network sees it: arrays that large are given back when they are freed."""
STATUS = Path("/proc/self/status")


class Tiny(torch.nn.Module):
    """A network that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 4, 16, 16)
        self.classifier = torch.nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.nn.functional.interpolate(self.classifier(self.backbone(images)), images.shape[2:])}


def mapped(place: Path, count: int) -> Split:
    """So many images that take no room: nothing on disk, and in memory only where they are looked at."""
    arrays = []
    for part, more in (("images", (3,)), ("masks", ())):
        file = place.with_name(f"{place.name}-{count}-{part}.npy")
        np.lib.format.open_memmap(file, "w+", np.uint8, (count, SIDE, SIDE, *more))[0, :2] = 1
        arrays.append(np.lib.format.open_memmap(file, "r"))
    names = tuple(f"{index:06d}" for index in range(count))
    return Split("folder", "train", "here", Classes.named("a", "b", "c"), names, arrays[0], arrays[1], "f", names)


@pytest.fixture(scope="module")
def fresh() -> Iterator[ProcessPoolExecutor]:
    """A process of this module alone: threads that earlier tests have left would be measured, too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def taken_by_training(place: Path, count: int) -> int:
    """Bytes that an epoch with so many images takes at most beyond what was there, without mapped files."""
    data = Data(mapped(place / "train", count), mapped(place / "val", 20))
    config = TrainConfig(epochs=1, batch_size=50, device="cpu", learning_rate=0.01)
    return most_memory(lambda: list(train(Segmenter(Tiny(), "signed_unit"), data, config)))


def most_memory(work: Callable[[], object]) -> int:
    """Bytes that something takes at most beyond what was there, without mapped files."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed would serve again, unseen
    before, over = own_memory(), threading.Event()
    seen = [before]

    def look() -> None:
        while not over.wait(0.005):
            seen.append(own_memory())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    assert len(seen) > 5
    return max(seen) - before


def own_memory() -> int:
    """Bytes of this process's memory that are not a file's."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+)", STATUS.read_text())
    return int(kilobytes) * 1024


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is mapped from what is not")
def test_a_training_s_own_memory_does_not_grow_with_the_images(tmp_path: Path, fresh: ProcessPoolExecutor) -> None:
    fresh.submit(taken_by_training, tmp_path, FEW).result()  # with what is made once
    few, many = (fresh.submit(taken_by_training, tmp_path, count).result() for count in (FEW, MANY))
    print(f"{few / 2**20:.1f} MB with {FEW} images, {many / 2**20:.1f} MB with {MANY}, of {4 * MASKS / 2**20:.0f} MB")
    assert many - few < MASKS / 4  # one copy of the masks alone would be all of it


def taken_by_resizing(classes: int, size: tuple[int, int]) -> int:
    """Bytes that resizing the logits of so many classes takes at most."""
    logits = torch.rand(1, classes, 128, 256)
    return most_memory(partial(at_size, [logits], size))


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is mapped from what is not")
def test_logits_of_many_classes_are_resized_in_bands(fresh: ProcessPoolExecutor) -> None:
    """Of the 2.5 GB that 150 classes take at full width, only the rows at hand are there at a time."""
    whole = 4 * 150 * 128 * 32_768
    assert fresh.submit(taken_by_resizing, 150, (16, 32_768)).result() < whole / 4


def served(classes: int) -> ServedModel:
    """A model whose logits are the image's values."""
    predictor = Predictor(lambda images: images.float().repeat(1, classes // 3, 1, 1), SEEN, "bilinear")
    return ServedModel(predictor, [str(index) for index in range(classes)], [[0, 0, 0]] * classes, None)


def taken_by_requests(*counts: int) -> list[int]:
    """Bytes that requests of so many images take at most, each after one that makes what is made once."""
    model, pixels = served(24), np.zeros((16, 16, 3), np.uint8)
    model.predict([pixels])
    return [most_memory(partial(model.predict, [pixels] * count)) for count in counts]


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is mapped from what is not")
def test_a_request_of_many_images_takes_the_memory_of_few(fresh: ProcessPoolExecutor) -> None:
    logits = 4 * 24 * SEEN**2
    one, many = fresh.submit(taken_by_requests, 1, 15).result()
    assert one > logits / 2  # it does see them at that size
    assert many < one + 5 * logits  # of the fifteen images' logits
    with pytest.raises(Refused, match="the 17 images would have 17825792 pixels together with their shorter sides"):
        served(24).predict([np.zeros((16, 16, 3), np.uint8)] * 17)


def test_what_is_told_of_the_images_copies_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(mapped(tmp_path / "train", MANY), mapped(tmp_path / "val", 20))
    tracemalloc.start()
    try:
        _mention_oddities(data, TrainConfig())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "is of class c" in capsys.readouterr().out
    assert peak < MASKS / 4


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux tells what is mapped from what is not")
def test_preparing_large_pictures_takes_a_bounded_amount_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 pictures of 1.5 million pixels as they are, 360 MB prepared, while who writes them is slow."""
    allowed = 100 * 2**20
    monkeypatch.setattr(cache, "IN_FLIGHT", allowed)
    for part in ("images", "masks"):
        (tmp_path / "own/train" / part).mkdir(parents=True)
    Image.new("RGB", (1500, 1000), (1, 2, 3)).save(tmp_path / "image.png")
    Image.new("L", (1500, 1000), 1).save(tmp_path / "mask.png")
    for number in range(60):
        (tmp_path / f"own/train/images/{number}.png").hardlink_to(tmp_path / "image.png")
        (tmp_path / f"own/train/masks/{number}.png").hardlink_to(tmp_path / "mask.png")
    (tmp_path / "own/classes.txt").write_text("a\nb\n")
    config = DataConfig(dataset="folder", data_dir=str(tmp_path / "own"), resize=None, crop=None)
    before, most = own_memory(), 0
    for number, (image, _, _) in enumerate(cache._prepared(open_split(config, "train"), config)):
        assert image.shape == (1000, 1500, 3)
        for _ in range(10 if number == 0 else 0):
            time.sleep(0.1)  # all that may be prepared now is
            most = max(most, own_memory() - before)
    print(f"{most / 2**20:.0f} MB, of which {allowed / 2**20:.0f} are allowed")
    assert most < allowed
