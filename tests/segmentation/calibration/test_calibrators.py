"""Calibrators as corrections of logits: what they change and what they never change."""

import numpy as np
import pytest
import torch
from torch import nn

from segmentation.calibration.calibrators import (
    HIGHEST,
    LOWEST,
    METHODS,
    Temperature,
    VectorScaling,
    build,
)
from segmentation.errors import InputError
from segmentation.scoring.pixel_predictions import pixel_predictions
from tests.segmentation.calibration.samples import CLASSES, split


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 2)])
def test_a_new_calibrator_changes_no_probability_at_any_size(method: str, size: tuple[int, int]) -> None:
    logits = 3 * torch.randn(2, CLASSES, *size, generator=torch.Generator().manual_seed(0))
    corrected = build(method, CLASSES)(logits, torch.zeros(2, 3, *size, dtype=torch.uint8))
    assert corrected.dtype == torch.float32
    torch.testing.assert_close(corrected.softmax(1), logits.softmax(1))


def with_a_temperature(method: str, value: float) -> nn.Module:
    calibrator = build(method, CLASSES)
    if isinstance(calibrator, Temperature):
        nn.init.constant_(calibrator.temperature, value)
    else:
        reach = np.log(HIGHEST)  # the bounds are each other's inverses
        nn.init.constant_(calibrator.get_parameter("field.bias"), float(np.arctanh(np.log(value) / reach * 0.999999)))
    return calibrator


@pytest.mark.parametrize("method", ["temperature", "local"])
@pytest.mark.parametrize("value", [LOWEST, 0.3, 3.0, 7.1, HIGHEST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_neighbouring_floats_never_become_equal_so_every_label_stays(
    method: str, value: float, dtype: torch.dtype
) -> None:
    bits = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float64: torch.int64}.get(dtype, torch.int32)
    random = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.0, 1e-45, 1e-40, 1e-7, 1e-3, 1.0, 7.0, 100.0, 60000.0]).to(dtype)
    base = scales[torch.randint(0, len(scales), (1, 1, 40, 50), generator=random)].repeat(1, CLASSES, 1, 1)
    base[..., :25] += torch.randn(1, 1, 40, 25, generator=random).to(dtype)
    # classes are equal or up to two floating-point numbers apart
    steps = torch.randint(0, 3, base.shape, generator=random).to(bits)
    logits = (base.contiguous().view(bits) + steps).view(dtype)
    assert logits.isfinite().all()
    rgb = torch.zeros(1, 3, 40, 50, dtype=torch.uint8)
    labels = torch.zeros(1, 40, 50, dtype=torch.uint8)
    before = pixel_predictions(logits, labels).label
    assert before.unique().tolist() == list(range(CLASSES))
    with torch.no_grad():
        corrected = with_a_temperature(method, value)(logits, rgb)
    assert torch.equal(pixel_predictions(corrected, labels).label, before)
    assert torch.equal(corrected == corrected.amax(1, keepdim=True), logits == logits.amax(1, keepdim=True))


def test_plain_division_would_change_labels() -> None:
    """The trap that the test above is about is real."""
    lower = torch.linspace(1, 2, 100)
    upper = torch.nextafter(lower, torch.tensor(3.0))
    assert (lower / 1.7 == upper / 1.7).any()


def test_vector_scaling_may_change_labels() -> None:
    logits, rgb, _ = split()
    calibrator = VectorScaling(CLASSES)
    with torch.no_grad():
        calibrator.bias[2] = 50
    assert (calibrator(logits, rgb).argmax(1) == 2).all()


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="method='temprature'.*'temperature'"):
        build("temprature", CLASSES)
