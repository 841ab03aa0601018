import numpy as np
import pytest

from segmentation.classes import Classes
from segmentation.io.channels import ChannelImage, displayed
from segmentation.prediction.overlays import Overlay, reduction
from tests.segmentation.prediction.test_predictor import random_image

CLASSES = Classes.named("background", "a", "b")
WIDTH, HEIGHT = 200, 150


def in_bands(values: np.ndarray, labels: np.ndarray, reduce: int, rows: int) -> np.ndarray:
    overlay = Overlay((WIDTH, HEIGHT), reduce, CLASSES)
    for top in range(0, HEIGHT, rows):
        overlay.add(ChannelImage(values[top : top + rows]), labels[top : top + rows])
    return np.array(overlay.image()).astype(float)


@pytest.mark.parametrize("reduce", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 11, HEIGHT])
def test_the_overlay_of_a_large_image_is_reduced(reduce: int, rows: int) -> None:
    image = random_image((WIDTH, HEIGHT), 0)
    labels = np.repeat([[0] * 60 + [1] * 40 + [2] * 100], HEIGHT, 0).astype(np.uint8)
    found = in_bands(np.array(image), labels, reduce, rows)
    small = np.array(image.reduce(reduce)).astype(float)
    assert found.shape == small.shape
    of_column = labels[0, np.minimum(np.arange(small.shape[1]) * reduce + reduce // 2, WIDTH - 1)]
    blended = (small + np.array(CLASSES.palette)[of_column]) / 2
    np.testing.assert_allclose(found, np.where(of_column[None, :, None] == 0, small, blended), atol=1)


@pytest.mark.parametrize("reduce", [1, 2])
def test_the_brightness_of_16_bits_is_stretched_over_the_whole_image(reduce: int) -> None:
    """A ramp from top to bottom stays one; each band stretched alone would repeat it."""
    ramp = np.linspace(300, 5000, HEIGHT).round()[:, None, None]
    values = np.broadcast_to(ramp, (HEIGHT, WIDTH, 4)).astype(np.uint16)
    found = in_bands(values, np.zeros((HEIGHT, WIDTH), np.uint8), reduce, rows=10)
    assert (np.diff(found[:, 0, 0]) >= 0).all()
    np.testing.assert_allclose(found, displayed(values)[::reduce, ::reduce], atol=2)


def test_the_reduction_bounds_pixels_and_sides() -> None:
    assert reduction(20_000, 20_000) == 5
    assert reduction(480, 360) == 1
    assert reduction(70_000, 10) == 2
