"""Counts by numba equal those by torch in float64, for any classes, memory format and number of threads."""

import math

import numpy as np
import pytest
import torch

from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.counting import _exp, columns, count_correct, count_images, count_pixels

EXACT = ("pixels", "confusion", "true_count", "true_correct", "predicted_count", "predicted_correct")


def batch(images: int, classes: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that is mostly correct, and masks with void pixels."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, height, width, generator=random)
    masks = torch.randint(0, classes, (images, height, width), generator=random)
    kept = torch.rand(masks.shape, generator=random) < 0.6
    masks = torch.where(kept, logits.argmax(1), masks).to(torch.uint8)
    masks[torch.rand(masks.shape, generator=random) < 0.1] = 255
    return logits, masks


def assert_alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal, except for a pixel or two whose confidence is on the edge of a fine bin."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        if name in EXACT:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        elif values.dtype == np.int64:
            assert np.abs(found[name] - values).sum() <= 4, name
        else:
            one_pixel = 1.01 if name.endswith("confidence_sum") else 0
            np.testing.assert_allclose(found[name].sum(), values.sum(), rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-3 + one_pixel, err_msg=name)


@pytest.mark.parametrize("classes", [2, 11, 150])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 29)])
def test_counts_are_those_of_float64(classes: int, size: tuple[int, int]) -> None:
    logits, masks = batch(3, classes, *size)
    near = boundary_band(masks, 2)
    expected = count_pixels(logits.double(), masks, near)
    assert_alike(count_pixels(logits, masks, near), expected)
    assert_alike(count_pixels(logits.to(memory_format=torch.channels_last), masks, near), expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_images_or_parts_of_one(threads: int) -> None:
    logits, masks = batch(2, 7, 33, 31)
    near, before = boundary_band(masks, 1), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        both, first = (count_pixels(logits[:n], masks[:n], near[:n]) for n in (2, 1))
    finally:
        torch.set_num_threads(before)
    expected = count_pixels(logits.double(), masks, near)
    assert_alike(both, expected)
    assert_alike(first, {name: values[:1] for name, values in expected.items()})


def test_columns_match_the_counted_arrays() -> None:
    counted = count_pixels(*batch(2, 5, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool))
    assert {name: shape for name, (_, shape) in columns(5).items()} == {
        name: counted[name].shape[1:] for name in columns(5)
    }
    assert set(counted) - set(columns(5)) == {"count", "confidence_sum", "correct", "confusion"}


def test_of_equal_logits_the_lowest_class_is_the_most_probable() -> None:
    masks = torch.tensor([[[0, 1, 2, 255]]], dtype=torch.uint8)
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 0] -= 1
    counted = count_pixels(logits, masks, torch.zeros(1, 1, 4, dtype=torch.bool))
    assert counted["confusion"][0].tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert count_correct(logits, masks) == count_correct(logits.double(), masks) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("index", [0, 3])
def test_a_logit_that_is_not_finite_makes_the_loss_nan(value: float, index: int) -> None:
    logits, masks = batch(1, 4, 4, 4)
    masks[:] = 1
    logits[0, index, 2, 2] = value
    counted = count_pixels(logits, masks, torch.zeros_like(masks, dtype=torch.bool))
    assert math.isnan(counted["negative_log_likelihood"][0])
    assert counted["count"].sum() == 16


def test_a_true_class_of_probability_0_has_an_infinite_loss() -> None:
    logits, masks = torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.uint8)
    logits[0, 0] = -math.inf
    counted = count_pixels(logits, masks, torch.zeros(1, 1, 1, dtype=torch.bool))
    assert counted["negative_log_likelihood"][0] == math.inf
    assert counted["confidence_sum"].sum() == 0.5


def test_many_classes_do_not_overflow_a_product() -> None:
    masks = torch.zeros(1, 40, 40, dtype=torch.uint8)
    counts = count_images(torch.zeros(1, 255, 40, 40), masks, torch.zeros_like(masks, dtype=torch.bool))
    assert counts.loss_and_brier[0, 0] == pytest.approx(1600 * math.log(255), rel=1e-9)


def test_correct_pixels_equal_comparing_with_argmax() -> None:
    logits, masks = batch(4, 11, 19, 23)
    expected = (logits.argmax(1) == masks).sum()
    assert count_correct(logits, masks) == expected
    assert count_correct(logits.to(memory_format=torch.channels_last), masks) == expected
    assert count_correct(logits.bfloat16(), masks) == (logits.bfloat16().argmax(1) == masks).sum()


def test_exponential_is_within_two_units_in_the_last_place() -> None:
    x = -np.concatenate([np.linspace(0, 87, 4001), np.logspace(-8, 1.9, 4001)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs([_exp(value) for value in x] - exact) / np.spacing(exact.astype(np.float32))).max() < 2
    assert _exp(np.float32(0)) == 1
    assert _exp(np.float32(-200)) < 1e-37
    assert math.isnan(_exp(np.float32(math.nan)))
