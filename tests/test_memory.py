"""Memory stays bounded when the data are larger than memory: in training, preparation, prediction and serving."""

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
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data import Split, building, in_parallel, open_split
from segmentation.models.segmenter import Segmenter
from segmentation.prediction.predictor import Predictor, at_size
from segmentation.scoring import resizing, softmax_counts
from segmentation.training.loop import Data, train
from studies.config import TrainConfig

pytestmark = pytest.mark.slow

if TYPE_CHECKING:  # importing MLflow would take half of the new process's time
    from studies.models.served import ServedModel

FEW, MANY, SIDE = 100, 6_000, 64
MASKS = MANY * SIDE**2
"""Bytes of all masks of `MANY` images; the images have three times as many."""
RESIZE = 1024
"""Shorter side of images in a served model. The allocator returns arrays of this size to the system when freed."""
STATUS = Path("/proc/self/status")


class Tiny(torch.nn.Module):
    """A very fast model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 4, 16, 16)
        self.classifier = torch.nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.nn.functional.interpolate(self.classifier(self.backbone(images)), images.shape[2:])}


def mapped(prefix: Path, count: int) -> Split:
    """Return a split of `count` images in sparse files: they take no disk, and memory only where they are read."""
    arrays = []
    for part, more in (("images", (3,)), ("masks", ())):
        file = prefix.with_name(f"{prefix.name}-{count}-{part}.npy")
        np.lib.format.open_memmap(file, "w+", np.uint8, (count, SIDE, SIDE, *more))[0, :2] = 1
        arrays.append(np.lib.format.open_memmap(file, "r"))
    names = tuple(f"{index:06d}" for index in range(count))
    return Split("folder", "train", "here", Classes.named("a", "b", "c"), names, arrays[0], arrays[1], "f", names)


@pytest.fixture(scope="module")
def fresh() -> Iterator[ProcessPoolExecutor]:
    """Yield a new process, because threads and freed memory of earlier tests would change the measurements."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def memory_of_training(folder: Path, count: int) -> int:
    """Return the peak memory of an epoch with `count` images."""
    data = Data(mapped(folder / "train", count), mapped(folder / "val", 20))
    config = TrainConfig(epochs=1, batch_size=50, device="cpu", learning_rate=0.01)
    return peak_memory(lambda: list(train(Segmenter(Tiny(), "signed_unit"), data, config)))


def peak_memory(work: Callable[[], object]) -> int:
    """Return the bytes by which a function increases the memory at its peak, without mapped files."""
    ctypes.CDLL(None).malloc_trim(0)  # otherwise the function may reuse freed memory, which is not measured
    before, done = anonymous_memory(), threading.Event()
    samples = [before]

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(anonymous_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    assert len(samples) > 5
    return max(samples) - before


def anonymous_memory() -> int:
    """Return the bytes of this process's memory that are not mapped from files."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+)", STATUS.read_text())
    return int(kilobytes) * 1024


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which counts mapped files separately")
def test_the_memory_of_training_does_not_grow_with_the_images(tmp_path: Path, fresh: ProcessPoolExecutor) -> None:
    fresh.submit(memory_of_training, tmp_path, FEW).result()  # allocates what is allocated once
    few, many = (fresh.submit(memory_of_training, tmp_path, count).result() for count in (FEW, MANY))
    print(f"{few / 2**20:.1f} MB with {FEW} images, {many / 2**20:.1f} MB with {MANY}, of {4 * MASKS / 2**20:.0f} MB")
    assert many - few < MASKS  # five runs: 9 to 17 MB, most of it not for masks; a copy of all masks adds 23 MB


def memory_of_resizing(classes: int, size: tuple[int, int]) -> int:
    """Return the peak memory of resizing logits."""
    logits = torch.rand(1, classes, 128, 256)
    return peak_memory(partial(at_size, [logits], size))


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which counts mapped files separately")
def test_logits_of_many_classes_are_resized_in_bands(fresh: ProcessPoolExecutor) -> None:
    """All rows of 150 classes at full width would take 2.5 GB."""
    whole = 4 * 150 * 128 * 32_768
    assert fresh.submit(memory_of_resizing, 150, (16, 32_768)).result() < whole / 4


def memory_of_scoring(classes: int, side: int, on_device: bool) -> int:
    """Return the peak memory of counting small logits at the size of a large mask, by numba or as on a device."""
    resizing.AT_ONCE, resizing.IN_ROWS, softmax_counts.IN_A_STRIP = 0, 2**20, 2**18
    logits, mask = torch.rand(1, classes, 64, 64), torch.zeros(1, side, side, dtype=torch.uint8)
    count = softmax_counts.count_strips if on_device else softmax_counts.count_images
    count(logits, mask[:, :64, :64], mask[:, :64, :64].bool())  # allocates what is allocated once
    return peak_memory(partial(count, logits, mask, mask.bool()))


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which counts mapped files separately")
@pytest.mark.parametrize("on_device", [False, True])
def test_large_masks_are_scored_some_rows_at_a_time(fresh: ProcessPoolExecutor, on_device: bool) -> None:
    """All logits of 60 classes would take 150 MB, and their probabilities in float64 twice as much."""
    assert fresh.submit(memory_of_scoring, 60, 800, on_device).result() < 4 * 60 * 800**2 / 2


def served(classes: int) -> "ServedModel":
    """Return a model whose logits are the image's values."""
    from studies.models.served import ServedModel

    predictor = Predictor(lambda images: images.float().repeat(1, classes // 3, 1, 1), RESIZE, "bilinear")
    return ServedModel(predictor, [str(index) for index in range(classes)], [[0, 0, 0]] * classes, None)


def memory_of_requests(*counts: int) -> list[int]:
    """Return the peak memory of requests with the given numbers of images."""
    model, pixels = served(24), np.zeros((16, 16, 3), np.uint8)
    model.predict([pixels])  # allocates what is allocated once
    return [peak_memory(partial(model.predict, [pixels] * count)) for count in counts]


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which counts mapped files separately")
def test_a_request_of_many_images_takes_the_memory_of_one(fresh: ProcessPoolExecutor) -> None:
    from studies.models.served import Refused

    logits = 4 * 24 * RESIZE**2
    one, many = fresh.submit(memory_of_requests, 1, 9).result()
    assert one > logits / 2  # the images are resized
    assert many < one + 5 * logits  # the logits of all images would take 9 times as much
    with pytest.raises(Refused, match="the 17 images would have 17825792 pixels"):
        served(24).predict([np.zeros((16, 16, 3), np.uint8)] * 17)


def test_warnings_about_the_data_copy_no_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from studies.runs.training import _print_warnings

    data = Data(mapped(tmp_path / "train", MANY), mapped(tmp_path / "val", 20))
    tracemalloc.start()
    try:
        _print_warnings(data, TrainConfig())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "is of class c" in capsys.readouterr().out
    assert peak < MASKS / 4


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which counts mapped files separately")
def test_preparing_large_images_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 images of 1.5 million pixels take 360 MB after preparation. The caller takes the first one slowly."""
    limit = 100 * 2**20
    monkeypatch.setattr(in_parallel, "MAX_BYTES_IN_FLIGHT", limit)
    for part in ("images", "masks"):
        (tmp_path / "own/train" / part).mkdir(parents=True)
    Image.new("RGB", (1500, 1000), (1, 2, 3)).save(tmp_path / "image.png")
    Image.new("L", (1500, 1000), 1).save(tmp_path / "mask.png")
    for number in range(60):
        (tmp_path / f"own/train/images/{number}.png").hardlink_to(tmp_path / "image.png")
        (tmp_path / f"own/train/masks/{number}.png").hardlink_to(tmp_path / "mask.png")
    (tmp_path / "own/classes.txt").write_text("a\nb\n")
    config = DataConfig(dataset="folder", data_dir=str(tmp_path / "own"), resize=None, crop=None)
    before, peak = anonymous_memory(), 0
    for number, prepared in enumerate(building._prepared(open_split(config, "train"), config)):
        assert prepared.image.shape == (1000, 1500, 3)
        for _ in range(10 if number == 0 else 0):
            time.sleep(0.1)  # meanwhile the threads prepare as many images as the limit allows
            peak = max(peak, anonymous_memory() - before)
    print(f"{peak / 2**20:.0f} MB of at most {limit / 2**20:.0f} MB")
    assert peak < limit
