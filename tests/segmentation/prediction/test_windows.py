"""Prediction in windows: against whole images where both must agree, and against all windows added in one array."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation.io.channels import ChannelImage
from segmentation.prediction import predictor as predictors
from segmentation.prediction.blending import axis, blended
from segmentation.prediction.image_rows import ImageRows, ResizedRows
from segmentation.prediction.predictor import LogProbabilities, Predictor, as_logits
from segmentation.prediction.views import Views
from tests.segmentation.prediction.test_predictor import random_image, random_model


def pointwise(batch: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 convolution: its logits at a pixel depend on that pixel alone."""
    mix = torch.tensor([[3.0, -1.0, 0.5], [-2.0, 2.5, 0.0], [0.2, 0.4, 1.5], [1.0, 1.0, -1.0]]) / 40
    return torch.nn.functional.conv2d(batch.float(), mix[:, :, None, None])


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (33, 200), (129, 65), (7, 9), (1, 1)])
@pytest.mark.parametrize("tile", [32, 33, 500])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6, 0.9])
def test_windows_of_a_pointwise_model_give_what_the_whole_image_gives(
    size: tuple[int, int], tile: int, overlap: float
) -> None:
    image = random_image(size, 1)
    (whole,) = Predictor(pointwise, None, "bilinear")([image], probabilities=True)
    views = Views(tile=tile, overlap=overlap)
    (found,) = Predictor(pointwise, None, "bilinear", views=views, batch_size=3)([image], probabilities=True)
    assert whole.probabilities is not None
    assert found.probabilities is not None
    second = np.sort(whole.probabilities, 0)[-2]
    clear = whole.confidence - second > 1e-6
    np.testing.assert_array_equal(found.classes[clear], whole.classes[clear])
    assert clear.mean() > 0.99
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-6)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100, 257])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_the_weights_of_all_windows_sum_to_one_and_change_smoothly(length: int, overlap: float) -> None:
    found = axis(length, 32, overlap)
    total = np.zeros(length)
    for start, weights in zip(found.starts, found.weights.numpy(), strict=True):
        total[start : start + found.size] += weights
        hann = np.sin(math.pi * (np.arange(found.size) + 0.5) / found.size) ** 2
        alone = np.array([sum(s <= start + at < s + found.size for s in found.starts) == 1 for at in range(found.size)])
        np.testing.assert_array_equal(weights[alone], 1)
        assert np.all((weights >= hann / 20) & (weights <= 1))
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert found.ends[-1] == length
    assert max(np.diff(found.starts), default=0) <= 32 * (1 - overlap)
    if overlap in (0.25, 0.5) and length >= 64:  # a window begins and ends beside others with a weight near 0
        assert max(weights[0] for weights in found.weights[1:]) < 0.02
        assert max(weights[-1] for weights in found.weights[:-1]) < 0.02


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(90, 70, 32, 0.25), (100, 33, 32, 0.6), (32, 200, 32, 0), (150, 40, 40, 0.9)],
)
def test_bands_equal_all_windows_added_in_one_array(height: int, width: int, tile: int, overlap: float) -> None:
    rows, columns = axis(height, tile, overlap), axis(width, tile, overlap)
    torch.manual_seed(0)
    windows = torch.rand(len(rows.starts) * len(columns.starts), 3, rows.size, columns.size)
    whole, weight = torch.zeros(3, height, width, dtype=torch.float64), torch.zeros(height, width, dtype=torch.float64)
    number = 0
    profile = [
        torch.sin(math.pi * (torch.arange(size).double() + 0.5) / size) ** 2 for size in (rows.size, columns.size)
    ]
    for top in rows.starts:
        for left in columns.starts:
            area = slice(top, top + rows.size), slice(left, left + columns.size)
            hann = profile[0][:, None] * profile[1]
            whole[:, *area] += windows[number].double() * hann
            weight[area] += hann
            number += 1
    found, covered = torch.full((3, height, width), torch.nan), torch.zeros(height, width)
    largest = 0
    for block in blended(rows, columns, iter(windows.clone())):
        _, high, wide = block.probabilities.shape
        found[:, block.top : block.top + high, block.left : block.left + wide] = block.probabilities
        covered[block.top : block.top + high, block.left : block.left + wide] += 1
        largest = max(largest, high * wide)
    assert (covered == 1).all()
    assert largest <= rows.size * columns.size, "a block is never larger than a window"
    torch.testing.assert_close(found.double(), whole / weight, atol=1e-6, rtol=0)


def test_bands_are_no_higher_than_a_window_whatever_the_height_of_the_image() -> None:
    for height in (200, 1000):
        source = Counting(random_image((80, height), 0))
        predictor = Predictor(pointwise, None, "bilinear", views=Views(tile=40))
        bands = []
        for band in predictor.bands(source):
            bands.append(band)
            source.ahead = max(source.ahead, source.last - band.top)
        assert sum(len(band.prediction.classes) for band in bands) == height
        assert max(len(band.prediction.classes) for band in bands) <= 40
        assert source.most == 40
        assert source.ahead <= 4 * 40, "no more is read than the windows in work and the next ones"


class Counting(ImageRows):
    """Counts the rows that are read at a time."""

    most = ahead = last = 0

    def rows(self, top: int, bottom: int) -> np.ndarray:
        self.last = bottom
        self.most = max(self.most, bottom - top)
        return super().rows(top, bottom)


def test_a_network_in_windows_differs_little_inside_and_most_at_their_borders() -> None:
    """Without overlap a window's border has less context than in the whole image; an overlap hides the border."""

    def blurring(batch: torch.Tensor) -> torch.Tensor:
        return pointwise(torch.nn.functional.avg_pool2d(batch.float(), 9, 1, 4))  # zeros beyond the border

    image = random_image((192, 128), 2)
    (whole,) = Predictor(blurring, None, "bilinear")([image])
    apart = {}
    for overlap in (0.0, 0.25, 0.5):
        (found,) = Predictor(blurring, None, "bilinear", views=Views(tile=64, overlap=overlap))([image])
        apart[overlap] = abs(found.confidence - whole.confidence)
    inside = (np.arange(192) % 64 > 4) & (np.arange(192) % 64 < 59) & (np.arange(128)[:, None] % 64 > 4)
    inside &= np.arange(128)[:, None] % 64 < 59
    np.testing.assert_allclose(apart[0.0][inside], 0, atol=1e-5)
    assert apart[0.0].max() > 0.1
    assert apart[0.25].max() < apart[0.0].max() / 5
    assert apart[0.5].mean() < apart[0.0].mean() / 5


def test_scales_are_resized_views_whose_probabilities_are_averaged() -> None:
    model, image = random_model(), random_image((90, 60), 3)
    chances = []
    for side in (48, 64, 80):
        resized = image.resize((int(side * 90 / 60), side), Image.Resampling.BILINEAR)
        logits = model(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]).detach()
        chances.append(torch.nn.functional.interpolate(logits, (60, 90), mode="bilinear").softmax(1)[0].numpy())
    mean = np.mean(chances, 0)
    (found,) = Predictor(model, 64, "bilinear", views=Views(scales=(0.75, 1.0, 1.25)))([image], probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-3)
    np.testing.assert_allclose(found.confidence, mean.max(0), atol=1e-3)
    assert (found.classes == mean.argmax(0)).mean() > 0.999


@pytest.mark.parametrize("size", [(90, 60), (61, 240)])
@pytest.mark.parametrize("flip", [False, True])
def test_windows_at_several_scales_equal_whole_images_at_these_scales(size: tuple[int, int], flip: bool) -> None:
    """For a pointwise model; Pillow's weights may differ by a level between a band and the whole image."""
    image = random_image(size, 4)
    scales = (0.5, 1.0, 3.0)
    (whole,) = Predictor(pointwise, None, "bilinear", views=Views(flip, scales))([image])
    (found,) = Predictor(pointwise, None, "bilinear", views=Views(flip, scales, tile=32))([image])
    assert found.classes.shape == size[::-1]
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=0.01)
    assert (found.classes == whole.classes).mean() > 0.99


def test_tile_resize_shows_objects_as_in_training() -> None:
    image = random_image((300, 200), 5)
    (whole,) = Predictor(pointwise, 50, "bilinear")([image])
    (found,) = Predictor(pointwise, 50, "bilinear", views=Views(tile=32, tile_resize=50))([image])
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=0.02)
    assert (found.classes == whole.classes).mean() > 0.98
    (own,) = Predictor(pointwise, 50, "bilinear", views=Views(tile=32))([image])
    (unresized,) = Predictor(pointwise, None, "bilinear")([image])
    np.testing.assert_allclose(own.confidence, unresized.confidence, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(100, 66), (37, 25), (299, 401)])
def test_an_image_resized_in_bands_is_the_image_resized_as_a_whole(interpolation: str, size: tuple[int, int]) -> None:
    image = random_image((150, 100), 6)
    filters = {name: getattr(Image.Resampling, name.upper()) for name in ("bilinear", "bicubic", "nearest")}
    whole = np.array(image.resize(size, filters[interpolation])).astype(int)
    resized = ResizedRows(ImageRows(image), size, interpolation)
    parts = [resized.rows(top, min(top + 13, size[1])) for top in range(0, size[1], 13)]
    difference = abs(np.concatenate(parts) - whole)
    assert difference.max() <= 1 or interpolation == "nearest"
    assert (difference > 0).mean() < 0.02


def test_windows_of_several_channels_of_16_bits() -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (70, 90, 5), dtype=np.uint16)

    def several(batch: torch.Tensor) -> torch.Tensor:
        return batch.float()[:, :4] / 20_000

    for views, whole_views in (
        (Views(tile=32), Views()),
        (Views(tile=32, scales=(0.5, 1.0)), Views(scales=(0.5, 1.0))),
    ):
        (whole,) = Predictor(several, None, "bilinear", channels=5, bits=16, views=whole_views)([ChannelImage(pixels)])
        (found,) = Predictor(several, None, "bilinear", channels=5, bits=16, views=views)([ChannelImage(pixels)])
        np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-3)
        assert (found.classes == whole.classes).mean() > 0.999


def test_the_logarithms_of_averaged_probabilities_have_them_as_softmax() -> None:
    chances = torch.tensor([[0.7, 1.0], [0.3, 0.0]])
    logits = as_logits(chances.clone())
    torch.testing.assert_close(logits.softmax(0), chances)
    assert logits.isfinite().all()
    image = random_image((80, 50), 7)
    predictor = Predictor(pointwise, None, "bilinear", views=Views(tile=32, flip=True))
    (expected,) = predictor([image], probabilities=True)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    found = LogProbabilities(torch.nn.Identity(), predictor)(pixels)
    assert expected.probabilities is not None
    np.testing.assert_allclose(found.softmax(1)[0], expected.probabilities, atol=1e-6)


def test_invalid_logits_in_a_window_raise_an_error() -> None:
    predictor = Predictor(
        lambda batch: torch.where(batch > 250, torch.nan, batch.float()), None, "bilinear", views=Views(tile=32)
    )
    image = random_image((100, 100), 8).point([value // 2 for value in range(256)] * 3)
    predictor([image])
    image.putpixel((70, 70), (255, 255, 255))
    with pytest.raises(ValueError, match=r"no class to \d+ of \d+ pixels: its logits are NaN or infinite"):
        predictor([image])


def test_the_number_of_windows_in_a_forward_pass_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return pointwise(batch)

    image = random_image((32 * 10, 32), 9)
    views = Views(tile=32, overlap=0)
    Predictor(counted, None, "bilinear", views=views, batch_size=4)([image])
    assert sizes == [4, 4, 2]
    monkeypatch.setattr(predictors, "WINDOW_PIXELS", 2 * 32**2)
    sizes.clear()
    Predictor(counted, None, "bilinear", views=views, batch_size=4)([image])
    assert sizes == [2] * 5
