"""Counts by numba equal those by torch, for any classes, memory format, threads, strips, and on a device."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from segmentation.classes import Classes
from segmentation.scoring import softmax_counts
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.log_odds import EDGES
from segmentation.scoring.scores import Scores
from segmentation.scoring.softmax_counts import _exp, columns, count_correct, count_images, count_pixels, count_strips
from tests.accelerator import DEVICE, accelerator


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
    """Equal numbers of pixels in every bin; sums as close as float32 is."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        if values.dtype == np.int64:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name].sum(), values.sum(), rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("classes", [2, 11, 150])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 29)])
def test_counts_are_those_of_float64(classes: int, size: tuple[int, int]) -> None:
    logits, masks = batch(3, classes, *size)
    near = boundary_band(masks, 2)
    expected = count_pixels(logits.double(), masks, near)
    assert_alike(count_pixels(logits, masks, near), expected)
    assert_alike(count_pixels(logits.to(memory_format=torch.channels_last), masks, near), expected)


def near_edges(edges: np.ndarray) -> np.ndarray:
    """Float32 log-odds of probabilities at edges, and the four next float32 on either side."""
    exact = np.log(edges / (1 - edges)).astype(np.float32)
    return np.concatenate([(exact.view(np.int32) + ulps).view(np.float32) for ulps in range(-4, 5)])


@pytest.mark.parametrize("counted_by", ["numba", "torch"])
def test_a_probability_next_to_an_edge_is_in_the_bin_of_its_float64_value(counted_by: str) -> None:
    """Two classes of which the first is more probable, in float32: its rounding would move many of these pixels."""
    z = near_edges(np.arange(301, 600) / 600)
    logits = torch.from_numpy(np.stack([z, np.zeros_like(z)]))[None, :, None]
    masks, near = torch.zeros(1, 1, len(z), dtype=torch.uint8), torch.zeros(1, 1, len(z), dtype=torch.bool)
    count = count_images if counted_by == "numba" else count_strips
    found = count(logits, masks, near)
    confidence = 1 / (1 + np.exp(-z.astype(np.float64)))
    expected = np.bincount(np.searchsorted(np.arange(1, 600) / 600, confidence), minlength=600)
    np.testing.assert_array_equal(found.fine[0, 0, 1], expected)
    rounded = np.searchsorted((np.arange(1, 600) / 600).astype(np.float32), torch.sigmoid(torch.from_numpy(z)).numpy())
    assert np.abs(np.bincount(rounded, minlength=600) - expected).sum() > 100
    z = EDGES[(EDGES > 0) & (EDGES < 60)].astype(np.float32)
    z = np.concatenate([z, np.nextafter(z, np.float32(0)), np.nextafter(z, np.float32(99))])
    logits = torch.from_numpy(np.stack([z, np.zeros_like(z)]))[None, :, None]
    found = count(logits, torch.zeros(1, 1, len(z), dtype=torch.uint8), torch.zeros(1, 1, len(z), dtype=torch.bool))
    odds_bin = np.searchsorted(EDGES, z.astype(np.float64))
    np.testing.assert_array_equal(found.log_odds[0, 1], np.bincount(odds_bin, minlength=1000))
    tenths = near_edges(np.arange(6, 10) / 10)  # the other class has 0.4, 0.3, 0.2, 0.1
    logits = torch.from_numpy(np.stack([tenths, np.zeros_like(tenths)]))[None, :, None]
    found = count(logits, masks[..., : len(tenths)], near[..., : len(tenths)])
    other = np.exp(-tenths.astype(np.float64)) / (1 + np.exp(-tenths.astype(np.float64)))
    expected = np.bincount(np.searchsorted(np.arange(1, 10) / 10, other), minlength=10)
    np.testing.assert_array_equal(found.other[0, 1, 0, 1:], expected[1:])


@pytest.mark.parametrize("odds", [1, 2, 3, 149])
def test_equally_probable_classes_are_in_one_bin_however_they_are_counted(odds: int) -> None:
    """Their confidence 1 / n may be on an edge, and belongs to the bin below it."""
    logits, masks = torch.zeros(1, odds + 1, 1, 3), torch.zeros(1, 1, 3, dtype=torch.uint8)
    near = torch.zeros(1, 1, 3, dtype=torch.bool)
    fine = math.ceil(600 / (odds + 1)) - 1
    for counts in (count_images(logits, masks, near), count_strips(logits, masks, near)):
        assert counts.fine[0, 0, 1, fine] == 3
        assert counts.log_odds[0, 1].argmax() == np.searchsorted(EDGES, -math.log(odds))
    assert np.abs(EDGES + math.log(odds)).min() > 1e-13, "the last digit of a logarithm would decide"


@pytest.mark.parametrize("numbers", [1, 1500, 9000])
def test_strips_of_any_size_have_the_same_counts(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """One row, some rows of an image, and some images at a time; no tensor is larger than a strip."""
    logits, masks = batch(5, 9, 12, 17)
    near = boundary_band(masks, 2)
    expected = count_images(logits, masks, near)
    monkeypatch.setattr(softmax_counts, "IN_A_STRIP", numbers)
    for name, values in count_strips(logits, masks, near)._asdict().items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-5, atol=1e-5, err_msg=name)
        if values.dtype == np.int64:
            np.testing.assert_array_equal(values, getattr(expected, name), err_msg=name)


class Largest(TorchDispatchMode):
    """Records the bytes of the largest floating-point tensor that an operation has made."""

    bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        is_view = str(operation) in ("aten.slice.Tensor", "aten.alias.default", "aten.detach.default")
        for each in tree_flatten(result)[0] if not is_view else ():
            if isinstance(each, torch.Tensor) and each.is_floating_point():
                self.bytes = max(self.bytes, each.numel() * each.element_size())
        return result


def test_memory_does_not_grow_with_the_image() -> None:
    logits = torch.randn(1, 150, 1, 1).expand(1, 150, 300, 400)  # 72 MB, if it were copied
    masks = torch.zeros(1, 300, 400, dtype=torch.uint8)
    with Largest() as largest:
        count_strips(logits, masks, masks.bool())
    assert 0.8 * 8 * softmax_counts.IN_A_STRIP < largest.bytes <= 8 * softmax_counts.IN_A_STRIP
    assert logits.numel() > 4 * softmax_counts.IN_A_STRIP


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_copies_one_tensor_of_counts_for_a_batch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """A simulated device with float64, as CUDA: nothing else waits for it, and it has the counts of the CPU."""
    monkeypatch.setattr(softmax_counts, "countable", lambda *tensors: tensors)
    logits, masks = batch(3, 6, 20, 23)
    logits = logits.to(dtype)
    on_cpu, there = Scores(Classes.named(*"abcdef")), Scores(Classes.named(*"abcdef"))
    on_cpu.update(logits, masks)
    with accelerator(has_float64=True) as device:
        given = logits.to(DEVICE), masks.to(DEVICE)
        there.update(*given)  # copies the edges of the bins
        device.waits.clear()
        device.received = 0
        there.update(*given)
    assert device.waits == ["aten._to_copy.default"]
    assert device.received == 0
    on_cpu.update(logits, masks)
    for name, values in on_cpu.tables[0].totals.items():
        if values.dtype == np.int64:
            np.testing.assert_array_equal(there.tables[0].totals[name], values, err_msg=name)
    assert there.metrics() == pytest.approx(on_cpu.metrics(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("label", [4, 254, 300, -1])
def test_a_wrong_label_on_a_device_is_found_when_the_counts_are_copied(label: int) -> None:
    logits, masks = batch(2, 4, 5, 5)
    masks = masks.long()
    masks[1, 2, 3] = label
    with pytest.raises(ValueError, match=f"label {label} is neither below 4 classes nor void"):
        count_strips(logits, masks, masks > 300)


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
