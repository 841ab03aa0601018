"""Fitted calibrators compared with scipy's minimisers on all pixels at once, and with the truth behind drawn labels."""

import gc
import io
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import log_softmax
from torch.nn import functional as F

from segmentation.calibration import fitting
from segmentation.calibration.calibrators import HIGHEST, LOWEST, METHODS, LocalTemperature, build
from segmentation.calibration.fitting import fit
from segmentation.calibration.stored_logits import StoredLogits
from segmentation.errors import InputError
from tests.segmentation.calibration.samples import CLASSES, SIDE, Batch, drawn, in_batches, pixels, split


@pytest.fixture(autouse=True)
def short_local_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most properties of a local fit do not depend on its convergence."""
    monkeypatch.setattr(fitting, "LOCAL_ITERATIONS", 4)


def mean_nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, 1)[np.arange(len(labels)), labels].mean())


def fitted_temperature(whole: Batch, sizes: tuple[int, ...] = (2, 2)) -> float:
    return fit("temperature", in_batches(whole, sizes), CLASSES).calibrator.get_parameter("temperature").item()


@pytest.mark.parametrize("true_temperature", [0.2, 0.9, 1.0, 1.8, 12.0])
def test_the_temperature_is_the_one_that_scipy_finds(true_temperature: float) -> None:
    whole = split(true_temperature)
    logits, labels = pixels(whole)
    found = optimize.minimize_scalar(
        lambda log: mean_nll(logits / np.exp(log), labels),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    fitted = fit("temperature", in_batches(whole), CLASSES)
    value = fitted.calibrator.get_parameter("temperature").item()
    assert value == pytest.approx(np.exp(found.x), rel=1e-5)
    assert fitted.temperature == (value, value, value)
    assert fitted.nll_after == pytest.approx(found.fun, abs=1e-6)
    assert fitted.nll_before == pytest.approx(mean_nll(logits, labels), abs=1e-6)
    assert fitted.at_bound == 0
    assert fitted.passes < 15


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_recovered(true_temperature: float) -> None:
    assert fitted_temperature(split(true_temperature, images=120), (40, 40, 40)) == pytest.approx(
        true_temperature, rel=0.03
    )


@pytest.mark.parametrize("sizes", [(4,), (1, 1, 1, 1), (3, 1), (1, 2, 1)])
def test_any_batches_of_the_same_images_give_the_same_temperature(sizes: tuple[int, ...]) -> None:
    whole = split()
    assert fitted_temperature(whole, sizes) == pytest.approx(fitted_temperature(whole), rel=1e-6)


def test_vector_scaling_is_as_good_as_what_scipy_finds() -> None:
    logits, rgb, _ = split()
    truth = logits / 1.5 * torch.tensor([1.0, 0.6, 1.4, 1.0])[:, None, None]
    truth += torch.tensor([1.0, -1.0, 0.0, 0.5])[:, None, None]
    whole = logits, rgb, drawn(truth, torch.Generator().manual_seed(1))
    values, labels = pixels(whole)
    found = optimize.minimize(
        lambda x: mean_nll(values * x[:CLASSES] + x[CLASSES:], labels), np.repeat([1.0, 0.0], CLASSES), method="BFGS"
    )
    fitted = fit("vector", in_batches(whole), CLASSES)
    assert fitted.nll_after == pytest.approx(found.fun, abs=2e-5)
    assert fitted.nll_after < fit("temperature", in_batches(whole), CLASSES).nll_after - 0.01
    weight, bias = (fitted.calibrator.get_parameter(name).numpy() for name in ("weight", "bias"))
    np.testing.assert_allclose(weight, found.x[:CLASSES], atol=2e-3)
    offsets = found.x[CLASSES:]  # only their differences mean anything
    np.testing.assert_allclose(bias - bias.mean(), offsets - offsets.mean(), atol=5e-3)
    assert fitted.temperature is None
    assert fitted.at_bound == 0


def test_vector_scaling_stays_finite_where_a_class_labels_no_pixel() -> None:
    logits, rgb, labels = split()
    labels[labels == 3] = 255
    fitted = fit("vector", in_batches((logits, rgb, labels)), CLASSES)
    assert fitted.nll_after < fitted.nll_before
    assert fitted.calibrator.get_parameter("bias").abs().max() < 10
    assert fitted.calibrator.get_parameter("weight").min() > 0


def left_and_right() -> tuple[Batch, torch.Tensor]:
    """Under-confident on the left, over-confident on the right, as only the image shows."""
    truth = torch.where(torch.arange(SIDE) < SIDE // 2, 0.6, 2.5).expand(SIDE, SIDE)
    return split(truth, images=40), truth


def test_local_temperatures_recover_a_field_that_the_image_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "LOCAL_ITERATIONS", 40)
    whole, truth = left_and_right()
    sizes = (4,) * 10
    fitted = fit("local", in_batches(whole, sizes), CLASSES)
    everywhere = fit("temperature", in_batches(whole, sizes), CLASSES)
    logits, rgb, labels = split(truth, images=10, seed=9)
    assert isinstance(fitted.calibrator, LocalTemperature)
    field = fitted.calibrator.temperatures(logits, rgb)[:, 0]
    assert field[..., : SIDE // 2].median().item() == pytest.approx(0.6, rel=0.15)
    assert field[..., SIDE // 2 :].median().item() == pytest.approx(2.5, rel=0.15)
    for half in (slice(None, SIDE // 2), slice(SIDE // 2, None)):
        local, plain = (
            F.cross_entropy(one.calibrator(logits, rgb)[..., half], labels[..., half], ignore_index=255)
            for one in (fitted, everywhere)
        )
        assert local < plain - 0.01
    best = F.cross_entropy(logits / truth, labels, ignore_index=255)
    assert F.cross_entropy(fitted.calibrator(logits, rgb), labels, ignore_index=255) < best + 0.01
    valid = whole[2] != 255
    values = fitted.calibrator.temperatures(whole[0], whole[1])[:, 0][valid]
    quantiles = np.quantile(values.numpy(), [0.05, 0.5, 0.95], method="inverted_cdf")
    assert fitted.temperature == pytest.approx(quantiles.tolist(), rel=1e-3)
    assert "median temperature" in fitted.described()


def test_a_local_fit_is_no_worse_than_the_best_temperature_and_the_same_again() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    whole = split()
    first, second = (fit("local", in_batches(whole), CLASSES, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.nll_after == second.nll_after
    assert first.nll_after <= fit("temperature", in_batches(whole), CLASSES).nll_after + 1e-7
    assert first.nll_after != fit("local", in_batches(whole), CLASSES, seed=4).nll_after
    for one, other in zip(first.calibrator.parameters(), second.calibrator.parameters(), strict=True):
        assert torch.equal(one, other)
    assert sum(parameter.numel() for parameter in build("local", 150).parameters()) < 5000


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_fitted_temperatures_leave_every_label(method: str) -> None:
    logits, rgb, labels = split(4.0)
    calibrator = fit(method, in_batches((logits, rgb, labels)), CLASSES).calibrator
    assert torch.equal(calibrator(logits, rgb).max(1).indices, logits.max(1).indices)


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_images_without_a_mistake_end_at_the_lowest_temperature_with_a_warning(method: str) -> None:
    logits, rgb, _ = split(scale=0.5)
    fitted = fit(method, in_batches((logits, rgb, logits.argmax(1))), CLASSES)
    assert fitted.at_bound == 1
    assert fitted.temperature == pytest.approx([LOWEST] * 3, rel=0.01)
    assert "lower bound, 0.05" in fitted.described()


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_random_labels_end_at_the_highest_temperature_with_a_warning(method: str) -> None:
    logits, rgb, labels = split()
    labels = logits.argmin(1)
    fitted = fit(method, in_batches((logits, rgb, labels)), CLASSES)
    assert fitted.at_bound == 1
    assert fitted.temperature == pytest.approx([HIGHEST] * 3, rel=0.01)
    assert method == "local" or fitted.passes < 7
    assert fitted.nll_after < fitted.nll_before
    assert "upper bound, 20" in fitted.described()


def test_the_description_names_the_correction_and_the_nll() -> None:
    fitted = fit("temperature", in_batches(split()), CLASSES)
    rest = f"(lowers the confidence): NLL {fitted.nll_before:.3f} -> {fitted.nll_after:.3f} on the fitting images"
    assert fitted.described() == f"temperature {fitted.calibrator.get_parameter('temperature').item():.2f} {rest}"
    assert "(raises the confidence)" in fit("temperature", in_batches(split(0.5)), CLASSES).described()
    assert fit("vector", in_batches(split()), CLASSES).described().startswith("a scale and a bias for each class: ")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_the_nll_is_never_worse_even_if_the_model_is_calibrated(method: str, seed: int) -> None:
    whole = split(1.0, seed=seed)
    fitted = fit(method, in_batches(whole), CLASSES)
    assert fitted.nll_after <= fitted.nll_before
    corrected = (fitted.calibrator(whole[0], whole[1]), *whole[1:])
    assert mean_nll(*pixels(corrected)) <= mean_nll(*pixels(whole)) + 1e-7
    again = fit(method, in_batches(corrected), CLASSES)
    assert again.nll_after <= again.nll_before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gap", [0.0, 500.0])
def test_without_an_improvement_the_calibrator_changes_nothing(method: str, gap: float) -> None:
    """Equal logits and uniform labels, or logits whose labels have probability 1."""
    logits = torch.zeros(2, CLASSES, 4, 4)
    labels = torch.arange(CLASSES).repeat(2, 4, 1)
    logits.scatter_(1, labels[:, None], gap)
    rgb = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    fitted = fit(method, lambda: [(logits, rgb, labels)], CLASSES)
    assert fitted.nll_after == fitted.nll_before
    assert fitted.at_bound == 0
    assert "no improvement found" in fitted.described()
    for name, value in build(method, CLASSES).state_dict().items():
        assert torch.equal(fitted.calibrator.state_dict()[name], value)


@pytest.mark.parametrize("method", METHODS)
def test_void_pixels_and_images_do_not_count(method: str) -> None:
    logits, rgb, labels = split()
    plain = fit(method, in_batches((logits, rgb, labels)), CLASSES)
    void = torch.full_like(labels, 255)
    batches = [*in_batches((logits, rgb, labels))(), (100 * logits, rgb, void)]
    assert fit(method, lambda: batches, CLASSES).nll_after == plain.nll_after
    if method != "local":  # the CNN sees the logits of neighbouring pixels, void or not
        changed = torch.where((labels == 255)[:, None], 50 - logits, logits)
        other = fit(method, in_batches((changed, rgb, labels)), CLASSES)
        for one, expected in zip(other.calibrator.parameters(), plain.calibrator.parameters(), strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_images_without_any_labelled_pixel_are_refused(method: str) -> None:
    logits, rgb, labels = split()
    with pytest.raises(InputError, match="no labelled pixel"):
        fit(method, in_batches((logits, rgb, torch.full_like(labels, 255))), CLASSES)
    with pytest.raises(InputError, match="there are no images"):
        fit(method, list, CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits, rgb, labels = split()
    logits[3, 2, 1, 0] = value
    with pytest.raises(InputError, match="logits are not finite"):
        fit("temperature", in_batches((logits, rgb, labels)), CLASSES)


def test_wrong_shapes_and_labels_are_refused() -> None:
    logits, rgb, labels = split()
    with pytest.raises(ValueError, match="4 classes, expected 5"):
        fit("temperature", in_batches((logits, rgb, labels)), 5)
    with pytest.raises(ValueError, match="images must be torch.uint8"):
        fit("temperature", in_batches((logits, rgb.float(), labels)), CLASSES)
    with pytest.raises(ValueError, match="label 4 is neither below 4"):
        fit("temperature", in_batches((logits, rgb, torch.full_like(labels, 4))), CLASSES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_fit_of_the_same_values_in_float32(method: str, dtype: torch.dtype) -> None:
    logits, rgb, labels = split()
    half = logits.to(dtype)
    fitted = fit(method, in_batches((half, rgb, labels)), CLASSES)
    assert fitted.nll_after == fit(method, in_batches((half.float(), rgb, labels)), CLASSES).nll_after
    corrected = fitted.calibrator(half, rgb)
    assert corrected.dtype == torch.float32
    assert torch.equal(corrected, fitted.calibrator(half.float(), rgb))


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_calibrator_is_rebuilt_from_its_state(method: str) -> None:
    logits, rgb, labels = split()
    calibrator = fit(method, in_batches((logits, rgb, labels)), CLASSES).calibrator
    file = io.BytesIO()
    torch.save(calibrator.state_dict(), file)
    file.seek(0)
    rebuilt = build(method, CLASSES)
    rebuilt.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(rebuilt(logits, rgb), calibrator(logits, rgb))
    assert not calibrator(logits, rgb).requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_calibrator_is_exported_for_any_number_and_size_of_images(method: str) -> None:
    whole = split()
    calibrator = fit(method, in_batches(whole), CLASSES).calibrator.eval()
    sizes = {0: torch.export.Dim("images"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    example = whole[0][:2], whole[1][:2]
    program = torch.export.export(calibrator, example, dynamic_shapes=(sizes, sizes))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for logits, rgb in (example, (whole[0][:3, :, :7, :12], whole[1][:3, :, :7, :12])):
        torch.testing.assert_close(loaded(logits, rgb), calibrator(logits, rgb))


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_never_all_in_memory(method: str) -> None:
    logits, rgb, labels = split()
    watched: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def batches() -> Iterator[Batch]:
        nonlocal most
        for index in range(4):
            fresh = 1 * logits[index : index + 1]
            watched.append(weakref.ref(fresh))
            most = max(most, sum(reference() is not None for reference in watched))
            yield fresh, rgb[index : index + 1], labels[index : index + 1]

    fitted = fit(method, batches, CLASSES)
    gc.collect()
    assert len(watched) == 4 * fitted.passes
    assert most <= 2
    assert all(reference() is None for reference in watched)


@pytest.mark.parametrize("method", METHODS)
def test_logits_may_be_computed_in_each_pass_or_stored(method: str) -> None:
    logits, rgb, labels = split()
    expected = fit(method, in_batches((logits, rgb, labels)), CLASSES).nll_after

    def computed() -> Iterator[Batch]:
        with torch.inference_mode():
            for one, image, truth in in_batches((logits, rgb, labels))():
                yield 1 * one, image, truth

    with torch.inference_mode():
        assert fit(method, computed, CLASSES).nll_after == expected
    with StoredLogits() as stored:
        for one in in_batches((logits, rgb, labels.to(torch.uint8)))():
            stored.add(*one)
        assert fit(method, stored.batches, CLASSES).nll_after == expected


def test_a_local_fit_to_16_bits_equals_that_to_the_same_images_of_8_bits() -> None:
    logits, images, labels = split()
    deep = (images.int() * 257).to(torch.uint16)
    half, whole = [127.5] * 3, [127.5 * 257] * 3  # both scales give the same float32 input, to the last bit
    found = fit("local", in_batches((logits, deep, labels)), CLASSES, measured=(whole, whole))
    expected = fit("local", in_batches((logits, images, labels)), CLASSES, measured=(half, half))
    assert found.nll_after == expected.nll_after
    assert found.nll_after < found.nll_before
