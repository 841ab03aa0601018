"""Predictions against what `evaluate` scores, and against averages and pictures made by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from segmentation.calibration import calibrators as recalibration
from segmentation.classes import Classes
from segmentation.config import ModelConfig
from segmentation.data import Originals, load_split, open_split
from segmentation.errors import InputError
from segmentation.models import segmenter as models
from segmentation.models.segmenter import Segmenter
from segmentation.prediction.inputs import output_names
from segmentation.prediction.outputs import PredictedFolder
from segmentation.prediction.pipeline import predict_images
from segmentation.prediction.predictor import STRIP, Predictor, at_size
from segmentation.scoring.evaluate import at_size_of
from segmentation.scoring.softmax import pixel_predictions
from studies.config import TrainConfig

NAMES = Classes.named("red", "green", "blue")


def random_network(classes: int = 3) -> Segmenter:
    """A small network whose predictions differ from pixel to pixel."""
    torch.manual_seed(0)
    network = models.build(ModelConfig(model="lraspp_mobilenet_v3_large", batch_norm_momentum=1.0), classes)
    with torch.no_grad():
        network.train()(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
        for name, weights in network.named_parameters():
            if any(last in name for last in models.LAST_LAYERS):
                weights *= 10
    return network.eval()


def blobs(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of `W` x `H` pixels with large blobs of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def identity(batch: torch.Tensor) -> torch.Tensor:
    """A network whose classes are the colours."""
    return batch.float()


@pytest.mark.parametrize("resize", [32, None])
def test_a_prediction_is_what_evaluation_at_the_original_size_scores(resize: int | None, own_data: Path) -> None:
    data = TrainConfig(dataset="folder", data_dir=str(own_data), resize=resize, crop=32)
    split = load_split(data, "val")
    originals = Originals(split, open_split(data, "val"), data)
    network = random_network()
    predictor = Predictor(network, resize, data.interpolation)
    classes = set()
    for index in range(len(split)):
        images, masks = originals.gather(np.array([index]))
        with torch.inference_mode():
            logits = at_size_of(masks, network(images))
            scored = pixel_predictions(logits, masks)
        (prediction,) = predictor([originals.source.read(index).image])
        highest = logits.max(1).values[0].numpy()
        chosen = logits[0].numpy()
        chosen = np.take_along_axis(chosen, prediction.classes[None].astype(np.int64), 0)[0]
        np.testing.assert_allclose(chosen, highest, atol=1e-3)  # equal but for ties, which memory layouts break apart
        assert (prediction.classes != scored.label[0].numpy()).mean() < 1e-3
        np.testing.assert_allclose(prediction.confidence, scored.confidence[0], atol=1e-4)
        classes |= set(np.unique(prediction.classes))
    assert len(classes) > 1


@pytest.mark.parametrize("size", [(300, 257), (33, 1500), (5, 7), (24, 40)])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("band", [1, 5 * 257 * 9, 2**24])
def test_strips_equal_resizing_the_whole_picture_at_once(
    size: tuple[int, int], count: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation.prediction.predictor.STRIP", 5 * 257 * 7)
    monkeypatch.setattr("segmentation.prediction.predictor.BAND", band)
    assert STRIP > 5 * 257 * 7
    torch.manual_seed(0)
    logits = [4 * torch.randn(1, 5, 24, 40).contiguous(memory_format=torch.channels_last) for _ in range(count)]
    whole = torch.stack([F.interpolate(each, size, mode="bilinear").double().softmax(1) for each in logits]).mean(0)[0]
    prediction = at_size(logits, size)
    confidence, classes = whole.max(0)
    np.testing.assert_allclose(prediction.confidence, confidence, atol=1e-5)
    second = whole.sort(0).values[-2]
    clear = (confidence - second > 1e-5).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(prediction.classes[clear], classes.numpy()[clear])


def test_a_flip_averages_the_probabilities_of_both_views() -> None:
    network, picture = random_network(), blobs((61, 45), 3)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        mean = (network(pixels).softmax(1) + network(pixels.flip(3)).softmax(1).flip(3))[0] / 2
    (prediction,) = Predictor(network, None, "bilinear", flip=True)([picture])
    np.testing.assert_allclose(prediction.confidence, mean.max(0).values, atol=1e-5)
    assert (prediction.classes == mean.argmax(0).numpy()).mean() > 0.999
    (alone,) = Predictor(network, None, "bilinear")([picture])
    assert abs(alone.confidence - prediction.confidence).max() > 0.01
    (mirrored,) = Predictor(network, None, "bilinear", flip=True)([picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    np.testing.assert_allclose(mirrored.confidence[:, ::-1], prediction.confidence, atol=1e-5)


def test_equals_go_to_the_lowest_class() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 5, 40, 50)).astype(np.float32))
    prediction = at_size([logits], (40, 50))
    np.testing.assert_array_equal(prediction.classes, logits[0].numpy().argmax(0))
    np.testing.assert_allclose(prediction.confidence, logits[0].softmax(0).numpy().max(0), rtol=1e-6)


def test_a_calibrated_network_gives_calibrated_confidence_and_the_same_classes() -> None:
    network, picture = random_network(), blobs((48, 40), 1)
    (plain,) = Predictor(network, None, "bilinear")([picture])
    logits = network(Predictor(network, None, "bilinear").prepare(picture)[None]).detach()
    network.calibrator = recalibration.build("temperature", 3)
    network.calibrator.get_parameter("temperature").data.fill_(2.5)
    (mended,) = Predictor(network, None, "bilinear")([picture])
    np.testing.assert_array_equal(mended.classes, plain.classes)
    np.testing.assert_allclose(mended.confidence, (logits / 2.5).softmax(1).max(1).values[0], atol=1e-5)
    assert mended.confidence.mean() < plain.confidence.mean() - 0.01


def test_pictures_of_several_sizes_come_back_in_their_order_at_their_size() -> None:
    predictor = Predictor(random_network(), 32, "bilinear")
    sizes = [(48, 40), (40, 48), (48, 40), (60, 50), (7, 90)]
    pictures = [blobs(size, seed) for seed, size in enumerate(sizes)]
    for together, picture, size in zip(predictor(pictures), pictures, sizes, strict=True):
        (alone,) = predictor([picture])
        assert together.classes.shape == together.confidence.shape == size[::-1]
        np.testing.assert_allclose(together.confidence, alone.confidence, atol=1e-4)


class Short:
    """Finds no memory for more than some pictures at a time, or for one that is bright."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(batch))
        if len(batch) > 2 or batch.float().mean() > 250:
            raise torch.OutOfMemoryError("no memory")
        return batch.float()


def test_where_memory_is_short_pictures_go_one_by_one_and_only_those_too_large_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {}
    for index in range(6):
        pictures[f"{index}.png"] = tmp_path / f"{index}.png"
        (Image.new("RGB", (9, 9), "white") if index == 4 else blobs((9, 9), index)).save(pictures[f"{index}.png"])
    folder, network = PredictedFolder(tmp_path / "out", NAMES), Short()
    predict_images(Predictor(network, None, "bilinear"), pictures, folder, 5)
    assert list(folder.skipped) == ["4.png"]
    assert "no memory" in folder.skipped["4.png"]
    assert "skipped 4.png: it could not be predicted" in capsys.readouterr().err
    assert sorted(folder.rows) == [f"{index}.png" for index in (0, 1, 2, 3, 5)]
    assert max(network.batches) > 2


def test_memory_holds_no_more_pictures_than_their_pixels_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read are at most 8 ahead of a batch (one a thread), 4 are in it, and twice 4 behind it wait to be written."""
    monkeypatch.setattr("segmentation.prediction.pipeline.IN_HAND", 4 * 100)
    folder, in_hand = PredictedFolder(tmp_path / "out", NAMES), list[int]()

    def read(file: Path) -> Image.Image:
        in_hand.append(int(file.stem) + 1 - len(folder.rows))
        return blobs((10, 10), 0)

    monkeypatch.setattr("segmentation.prediction.pipeline.read_image", read)
    files = {f"{index:03d}.png": tmp_path / f"{index:03d}.png" for index in range(60)}
    predict_images(Predictor(identity, None, "bilinear"), files, folder, 16)
    assert len(folder.rows) == len(in_hand) == 60
    assert max(in_hand) <= 20


def test_what_is_written_when_interrupted_is_whole_and_in_the_table(tmp_path: Path) -> None:
    pictures = {f"{index}.png": tmp_path / f"{index}.png" for index in range(9)}
    for index, file in enumerate(pictures.values()):
        blobs((20, 10), index).save(file)
    calls = []

    def interrupted(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt("SIGTERM")
        return batch.float()

    folder = PredictedFolder(tmp_path / "out", NAMES)
    with pytest.raises(KeyboardInterrupt):
        predict_images(Predictor(interrupted, None, "bilinear"), pictures, folder, 2)
    with (tmp_path / "out/predictions.csv").open() as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    assert 1 <= len(listed) <= sum(calls[:3])
    for kind, ending in (("masks", "png"), ("confidence", "png"), ("overlays", "jpg")):
        made = sorted((tmp_path / "out" / kind).iterdir())
        assert [path.name for path in made] == [f"{Path(name).stem}.{ending}" for name in listed]
        for path in made:
            with Image.open(path) as picture:
                picture.load()
                assert picture.size == (20, 10)


def test_a_folder_that_cannot_be_written_stops_it(tmp_path: Path) -> None:
    blobs((9, 9), 0).save(tmp_path / "a.png")
    folder = PredictedFolder(tmp_path / "out", NAMES)
    (tmp_path / "out/masks").write_text("in the way")
    with pytest.raises(InputError, match=r"masks.a\.png cannot be written: .*choose another output"):
        predict_images(Predictor(identity, None, "bilinear"), {"a.png": tmp_path / "a.png"}, folder, 2)


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["a.jpg", "b.png", "c/a.jpg"], ["a", "b", "c/a"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["A.jpg", "a.png"], ["A.jpg", "a.png"]),
        (["A.jpg", "a.jpg"], ["A.jpg", "a.jpg"]),
        (["v1.0/x", "y"], ["v1.0/x", "y"]),
    ],
)
def test_no_two_pictures_get_the_same_name(pictures: list[str], names: list[str]) -> None:
    assert list(output_names(pictures).values()) == names


def test_threads_compute_as_many_at_a_time_after_as_before(tmp_path: Path) -> None:
    blobs((9, 9), 0).save(tmp_path / "a.png")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        folder = PredictedFolder(tmp_path / "out", NAMES)
        predictor = Predictor(identity, None, "bilinear")
        predict_images(predictor, {"a.png": tmp_path / "a.png"}, folder, 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("views", [1, 2])
def test_logits_that_are_no_numbers_give_an_error_and_no_class(value: float, views: int) -> None:
    """A pixel without a largest logit used to get the index after the last class."""
    logits = torch.randn(1, 3, 8, 8)
    at_size([logits] * views, (16, 16))
    ruled_out = logits.clone()
    ruled_out[0, 1] = -np.inf
    assert not (at_size([ruled_out] * views, (8, 8)).classes == 1).any()
    logits[0, 2, 3, 3] = value
    with pytest.raises(ValueError, match=r"no class to \d+ of 64 pixels: its logits are NaN or infinite"):
        at_size([logits] * views, (8, 8))


def test_pictures_without_a_prediction_are_skipped_with_the_reason(tmp_path: Path) -> None:
    pictures = {name: tmp_path / name for name in ("bright.png", "dark.png")}
    Image.new("RGB", (9, 9), "white").save(pictures["bright.png"])
    blobs((9, 9), 0).point([value // 2 for value in range(256)] * 3).save(pictures["dark.png"])
    folder = PredictedFolder(tmp_path / "out", NAMES)
    predictor = Predictor(lambda batch: torch.where(batch > 250, torch.nan, batch.float()), None, "bilinear")
    predict_images(predictor, pictures, folder, 2)
    assert list(folder.rows) == ["dark.png"]
    assert "the model gives no class to 81 of 81 pixels" in folder.skipped["bright.png"]
