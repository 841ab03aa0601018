"""The pipeline under short memory, interrupts and images that cannot be predicted."""

import csv
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.models.model_code import ModelCode
from segmentation.models.segmenter import Segmenter
from segmentation.prediction.outputs import PredictedFolder
from segmentation.prediction.pipeline import predict_images
from segmentation.prediction.predictor import Predictor
from tests.segmentation.prediction.test_predictor import random_image
from tests.tiny_network import NAME, small_lraspp

CLASSES = Classes.named("red", "green", "blue")


def identity(batch: torch.Tensor) -> torch.Tensor:
    """A model whose logits are the colours."""
    return batch.float()


class ShortOfMemory:
    """A model that has no memory for more than two images at a time, or for a bright image."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(batch))
        if len(batch) > 2 or batch.float().mean() > 250:
            raise torch.OutOfMemoryError("no memory")
        return batch.float()


def test_a_batch_without_memory_is_retried_one_by_one_and_only_too_large_images_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {}
    for index in range(6):
        images[f"{index}.png"] = tmp_path / f"{index}.png"
        (Image.new("RGB", (9, 9), "white") if index == 4 else random_image((9, 9), index)).save(images[f"{index}.png"])
    folder, model = PredictedFolder(tmp_path / "out", CLASSES), ShortOfMemory()
    predict_images(Predictor(model, None, "bilinear"), images, folder, 5)
    assert list(folder.skipped) == ["4.png"]
    assert "no memory" in folder.skipped["4.png"]
    assert "skipped 4.png: it could not be predicted" in capsys.readouterr().err
    assert sorted(folder.rows) == [f"{index}.png" for index in (0, 1, 2, 3, 5)]
    assert max(model.batches) > 2


def test_the_number_of_images_in_memory_is_limited_by_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 8 images are read ahead (one per thread), 4 are in the batch, and 8 wait to be written."""
    monkeypatch.setattr("segmentation.prediction.pipeline.MAX_BATCH_PIXELS", 4 * 100)
    folder, in_memory = PredictedFolder(tmp_path / "out", CLASSES), list[int]()

    def read(file: Path, channels: int, bits: int) -> Image.Image:
        in_memory.append(int(file.stem) + 1 - len(folder.rows))
        return random_image((10, 10), 0)

    monkeypatch.setattr("segmentation.prediction.pipeline.read_image", read)
    files = {f"{index:03d}.png": tmp_path / f"{index:03d}.png" for index in range(60)}
    predict_images(Predictor(identity, None, "bilinear"), files, folder, 16)
    assert len(folder.rows) == len(in_memory) == 60
    assert max(in_memory) <= 20


def test_after_an_interrupt_all_files_are_complete_and_in_the_table(tmp_path: Path) -> None:
    images = {f"{index}.png": tmp_path / f"{index}.png" for index in range(9)}
    for index, file in enumerate(images.values()):
        random_image((20, 10), index).save(file)
    calls = []

    def interrupted(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt("SIGTERM")
        return batch.float()

    folder = PredictedFolder(tmp_path / "out", CLASSES)
    with pytest.raises(KeyboardInterrupt):
        predict_images(Predictor(interrupted, None, "bilinear"), images, folder, 2)
    with (tmp_path / "out/predictions.csv").open() as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    assert 1 <= len(listed) <= sum(calls[:3])
    for kind, ending in (("masks", "png"), ("confidence", "png"), ("overlays", "jpg")):
        written = sorted((tmp_path / "out" / kind).iterdir())
        assert [path.name for path in written] == [f"{Path(name).stem}.{ending}" for name in listed]
        for path in written:
            with Image.open(path) as image:
                image.load()
                assert image.size == (20, 10)


def test_the_number_of_torch_threads_is_restored(tmp_path: Path) -> None:
    random_image((9, 9), 0).save(tmp_path / "a.png")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        folder = PredictedFolder(tmp_path / "out", CLASSES)
        predict_images(Predictor(identity, None, "bilinear"), {"a.png": tmp_path / "a.png"}, folder, 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_file_that_cannot_be_written_ends_the_prediction(tmp_path: Path) -> None:
    """It is no fault of the image, which would be skipped."""
    random_image((9, 9), 0).save(tmp_path / "a.png")
    folder = PredictedFolder(tmp_path / "out", CLASSES)
    (tmp_path / "out" / "masks").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        predict_images(Predictor(identity, None, "bilinear"), {"a.png": tmp_path / "a.png"}, folder, 5)
    assert not folder.skipped


def test_images_with_invalid_logits_are_skipped_with_the_reason(tmp_path: Path) -> None:
    images = {name: tmp_path / name for name in ("bright.png", "dark.png")}
    Image.new("RGB", (9, 9), "white").save(images["bright.png"])
    random_image((9, 9), 0).point([value // 2 for value in range(256)] * 3).save(images["dark.png"])
    folder = PredictedFolder(tmp_path / "out", CLASSES)
    predictor = Predictor(lambda batch: torch.where(batch > 250, torch.nan, batch.float()), None, "bilinear")
    predict_images(predictor, images, folder, 2)
    assert list(folder.rows) == ["dark.png"]
    assert "the model gives no class to 81 of 81 pixels" in folder.skipped["bright.png"]
    assert folder.class_fractions().keys() == set(CLASSES.names)
    assert sum(folder.class_fractions().values()) == pytest.approx(1)
    assert folder.mean_confidence() == pytest.approx(folder.rows["dark.png"].mean_confidence)
    assert np.sum(folder.rows["dark.png"].pixels) == 81


@pytest.mark.parametrize("is_own", [False, True])
def test_an_own_model_which_may_keep_state_is_run_by_one_thread(is_own: bool, tmp_path: Path) -> None:
    """On the CPU others are run by several, with the same result as one image after the other."""
    torch.manual_seed(0)
    model = Segmenter(small_lraspp(3, 3), "imagenet").eval()
    if is_own:
        model.code = ModelCode(NAME, {})
    images = {f"{index:02d}.png": tmp_path / f"{index:02d}.png" for index in range(24)}
    for index, file in enumerate(images.values()):
        random_image((40 + 8 * (index % 2), 32), index).save(file)
    callers: set[int] = set()
    hook = model.register_forward_pre_hook(lambda *_: callers.add(threading.get_ident()))
    predictor, folder = Predictor(model, None, "bilinear"), PredictedFolder(tmp_path / "out", CLASSES)
    predict_images(predictor, images, folder, 4)
    hook.remove()
    assert (callers == {threading.get_ident()}) is is_own
    assert (threading.get_ident() in callers) is is_own
    for name, file in images.items():
        with Image.open(file) as image, Image.open(tmp_path / "out" / "masks" / name) as mask:
            (alone,) = predictor([image])
            assert (np.array(mask) != alone.classes).mean() < 0.01
            assert folder.rows[name].mean_confidence == pytest.approx(float(alone.confidence.mean()), abs=1e-5)
