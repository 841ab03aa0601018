"""Predictions against what `evaluate` scores, and against results computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from segmentation.calibration import calibrators
from segmentation.config import ModelConfig
from segmentation.data import Originals, load_split, open_split
from segmentation.models.networks import CLASS_LAYERS
from segmentation.models.segmenter import Segmenter, build
from segmentation.prediction.predictor import STRIP, Predictor, at_size
from segmentation.scoring.evaluate import at_size_of
from segmentation.scoring.pixel_predictions import pixel_predictions
from studies.config import TrainConfig


def random_model(classes: int = 3) -> Segmenter:
    """A small model whose predictions differ from pixel to pixel."""
    torch.manual_seed(0)
    model = build(ModelConfig(model="lraspp_mobilenet_v3_large", batch_norm_momentum=1.0), classes)
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
        for name, weights in model.named_parameters():
            if any(last in name for last in CLASS_LAYERS):
                weights *= 10
    return model.eval()


def random_image(size: tuple[int, int], seed: int) -> Image.Image:
    """An image of `W` x `H` pixels with large random blobs of colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("resize", [32, None])
def test_a_prediction_is_what_evaluation_at_the_original_size_scores(resize: int | None, own_data: Path) -> None:
    data = TrainConfig(dataset="folder", data_dir=str(own_data), resize=resize, crop=32)
    split = load_split(data, "val")
    originals = Originals(split, open_split(data, "val"), data)
    model = random_model()
    predictor = Predictor(model, resize, data.interpolation)
    classes = set()
    for index in range(len(split)):
        images, masks = originals.gather(np.array([index]))
        with torch.inference_mode():
            logits = at_size_of(masks, model(images))
            scored = pixel_predictions(logits, masks)
        (prediction,) = predictor([originals.source.read(index).image])
        highest = logits.max(1).values[0].numpy()
        chosen = logits[0].numpy()
        chosen = np.take_along_axis(chosen, prediction.classes[None].astype(np.int64), 0)[0]
        np.testing.assert_allclose(chosen, highest, atol=1e-3)  # memory layouts resolve ties differently
        assert (prediction.classes != scored.label[0].numpy()).mean() < 1e-3
        np.testing.assert_allclose(prediction.confidence, scored.confidence[0], atol=1e-4)
        classes |= set(np.unique(prediction.classes))
    assert len(classes) > 1


@pytest.mark.parametrize("size", [(300, 257), (33, 1500), (5, 7), (24, 40)])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("band", [1, 5 * 257 * 9, 2**24])
def test_strips_equal_resizing_the_whole_image_at_once(
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
    model, image = random_model(), random_image((61, 45), 3)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        mean = (model(pixels).softmax(1) + model(pixels.flip(3)).softmax(1).flip(3))[0] / 2
    (prediction,) = Predictor(model, None, "bilinear", flip=True)([image])
    np.testing.assert_allclose(prediction.confidence, mean.max(0).values, atol=1e-5)
    assert (prediction.classes == mean.argmax(0).numpy()).mean() > 0.999
    (alone,) = Predictor(model, None, "bilinear")([image])
    assert abs(alone.confidence - prediction.confidence).max() > 0.01
    (mirrored,) = Predictor(model, None, "bilinear", flip=True)([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    np.testing.assert_allclose(mirrored.confidence[:, ::-1], prediction.confidence, atol=1e-5)


def test_ties_go_to_the_lowest_class() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 5, 40, 50)).astype(np.float32))
    prediction = at_size([logits], (40, 50))
    np.testing.assert_array_equal(prediction.classes, logits[0].numpy().argmax(0))
    np.testing.assert_allclose(prediction.confidence, logits[0].softmax(0).numpy().max(0), rtol=1e-6)


def test_logits_far_below_the_highest_change_no_confidence() -> None:
    logits = torch.tensor(
        [[0.0, -80.0, -90.0, -500.0, -1e30], [-90.0, 0.0, -1.0, 20.0, 5.0], [-1e4, -200.0, 0.0, 1.0, 5.0]]
    )
    prediction = at_size([logits[None, :, None]], (1, 5), probabilities=True)
    assert prediction.probabilities is not None
    expected = logits.double().softmax(0).numpy()
    np.testing.assert_array_equal(prediction.confidence[0], expected.max(0).astype(np.float32))
    np.testing.assert_allclose(prediction.probabilities[:, 0], expected, rtol=1e-6, atol=2e-38)


def test_a_calibrated_model_gives_calibrated_confidence_and_the_same_classes() -> None:
    model, image = random_model(), random_image((48, 40), 1)
    (plain,) = Predictor(model, None, "bilinear")([image])
    logits = model(Predictor(model, None, "bilinear").prepare(image)[None]).detach()
    model.calibrator = calibrators.build("temperature", 3)
    model.calibrator.get_parameter("temperature").data.fill_(2.5)
    (calibrated,) = Predictor(model, None, "bilinear")([image])
    np.testing.assert_array_equal(calibrated.classes, plain.classes)
    np.testing.assert_allclose(calibrated.confidence, (logits / 2.5).softmax(1).max(1).values[0], atol=1e-5)
    assert calibrated.confidence.mean() < plain.confidence.mean() - 0.01


def test_images_of_several_sizes_are_predicted_in_order_at_their_size() -> None:
    predictor = Predictor(random_model(), 32, "bilinear")
    sizes = [(48, 40), (40, 48), (48, 40), (60, 50), (7, 90)]
    images = [random_image(size, seed) for seed, size in enumerate(sizes)]
    for together, image, size in zip(predictor(images), images, sizes, strict=True):
        (alone,) = predictor([image])
        assert together.classes.shape == together.confidence.shape == size[::-1]
        np.testing.assert_allclose(together.confidence, alone.confidence, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("views", [1, 2])
def test_invalid_logits_raise_an_error(value: float, views: int) -> None:
    logits = torch.randn(1, 3, 8, 8)
    at_size([logits] * views, (16, 16))
    ruled_out = logits.clone()
    ruled_out[0, 1] = -np.inf
    assert not (at_size([ruled_out] * views, (8, 8)).classes == 1).any()
    logits[0, 2, 3, 3] = value
    with pytest.raises(ValueError, match=r"no class to \d+ of 64 pixels: its logits are NaN or infinite"):
        at_size([logits] * views, (8, 8))
