"""Fitted calibrators against scipy's minimisers on all pixels at once, and against truths that labels come from."""

import gc
import io
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from segmentation.calibration.calibrators import (
    HIGHEST,
    LOWEST,
    METHODS,
    Batches,
    LocalTemperature,
    Temperature,
    VectorScaling,
    build,
    fit,
)
from segmentation.calibration.stored_logits import StoredLogits
from segmentation.errors import InputError
from segmentation.scoring.bootstrap import resampled
from segmentation.scoring.softmax import pixel_predictions

CLASSES = 4
SIDE = 16

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def drawn(logits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Classes that are right as often as the logits say, `(B, H, W)`."""
    probabilities = logits.softmax(1).permute(0, 2, 3, 1)
    labels = torch.multinomial(probabilities.reshape(-1, logits.shape[1]), 1, generator=random)
    return labels.reshape(probabilities.shape[:3])


def split(true_temperature: float | torch.Tensor = 1.8, images: int = 4, seed: int = 0, scale: float = 3.0) -> Batch:
    """Logits, pictures that are dark on the left and bright on the right, and labels; a tenth of them is void."""
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, CLASSES, SIDE, SIDE, generator=random)
    pictures = torch.randint(0, 60, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=random)
    pictures[..., SIDE // 2 :] += 160
    labels = drawn(logits / true_temperature, random)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return logits, pictures, labels


def in_batches(whole: Batch, sizes: tuple[int, ...] = (2, 2)) -> Batches:
    return lambda: zip(*(tensor.split(sizes) for tensor in whole), strict=True)


def pixels(whole: Batch) -> tuple[np.ndarray, np.ndarray]:
    """All non-void pixels at once: logits `(N, C)` float64 and labels `(N,)`."""
    logits, _, labels = whole
    valid = labels != 255
    return logits.double().permute(0, 2, 3, 1)[valid].numpy(), labels[valid].numpy()


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
    logits, pictures, _ = split()
    truth = logits / 1.5 * torch.tensor([1.0, 0.6, 1.4, 1.0])[:, None, None]
    truth += torch.tensor([1.0, -1.0, 0.0, 0.5])[:, None, None]
    whole = logits, pictures, drawn(truth, torch.Generator().manual_seed(1))
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
    logits, pictures, labels = split()
    labels[labels == 3] = 255
    fitted = fit("vector", in_batches((logits, pictures, labels)), CLASSES)
    assert fitted.nll_after < fitted.nll_before
    assert fitted.calibrator.get_parameter("bias").abs().max() < 10
    assert fitted.calibrator.get_parameter("weight").min() > 0


def left_and_right() -> tuple[Batch, torch.Tensor]:
    """Under-confident on the left, over-confident on the right, as only the picture tells."""
    truth = torch.where(torch.arange(SIDE) < SIDE // 2, 0.6, 2.5).expand(SIDE, SIDE)
    return split(truth, images=40), truth


def test_local_temperatures_recover_a_field_that_the_picture_tells() -> None:
    whole, truth = left_and_right()
    sizes = (4,) * 10
    fitted = fit("local", in_batches(whole, sizes), CLASSES)
    everywhere = fit("temperature", in_batches(whole, sizes), CLASSES)
    logits, pictures, labels = split(truth, images=10, seed=9)
    assert isinstance(fitted.calibrator, LocalTemperature)
    field = fitted.calibrator.temperatures(logits, pictures)[:, 0]
    assert field[..., : SIDE // 2].median().item() == pytest.approx(0.6, rel=0.15)
    assert field[..., SIDE // 2 :].median().item() == pytest.approx(2.5, rel=0.15)
    for place in (slice(None, SIDE // 2), slice(SIDE // 2, None)):
        local, plain = (
            F.cross_entropy(one.calibrator(logits, pictures)[..., place], labels[..., place], ignore_index=255)
            for one in (fitted, everywhere)
        )
        assert local < plain - 0.01
    best = F.cross_entropy(logits / truth, labels, ignore_index=255)
    assert F.cross_entropy(fitted.calibrator(logits, pictures), labels, ignore_index=255) < best + 0.01
    valid = whole[2] != 255
    values = fitted.calibrator.temperatures(whole[0], whole[1])[:, 0][valid]
    quantiles = np.quantile(values.numpy(), [0.05, 0.5, 0.95], method="inverted_cdf")
    assert fitted.temperature == pytest.approx(quantiles.tolist(), rel=1e-3)
    assert "in the middle, " in fitted.described()


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
    pictures = torch.zeros(1, 3, 40, 50, dtype=torch.uint8)
    labels = torch.zeros(1, 40, 50, dtype=torch.uint8)
    before = pixel_predictions(logits, labels).label
    assert before.unique().tolist() == list(range(CLASSES))
    with torch.no_grad():
        corrected = with_a_temperature(method, value)(logits, pictures)
    assert torch.equal(pixel_predictions(corrected, labels).label, before)
    assert torch.equal(corrected == corrected.amax(1, keepdim=True), logits == logits.amax(1, keepdim=True))


def test_plain_division_would_change_labels() -> None:
    """The trap that the test above is about is real."""
    lower = torch.linspace(1, 2, 100)
    upper = torch.nextafter(lower, torch.tensor(3.0))
    assert (lower / 1.7 == upper / 1.7).any()


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_fitted_temperatures_leave_every_label(method: str) -> None:
    logits, pictures, labels = split(4.0)
    calibrator = fit(method, in_batches((logits, pictures, labels)), CLASSES).calibrator
    assert torch.equal(calibrator(logits, pictures).max(1).indices, logits.max(1).indices)


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_images_without_a_mistake_end_at_the_lowest_temperature_and_say_so(method: str) -> None:
    logits, pictures, _ = split(scale=0.5)
    fitted = fit(method, in_batches((logits, pictures, logits.argmax(1))), CLASSES)
    assert fitted.at_bound == 1
    assert fitted.temperature == pytest.approx([LOWEST] * 3, rel=0.01)
    assert "Warning: that is the lowest allowed, 0.05" in fitted.described()


@pytest.mark.parametrize("method", ["temperature", "local"])
def test_random_labels_end_at_the_highest_temperature_and_say_so(method: str) -> None:
    logits, pictures, labels = split()
    labels = logits.argmin(1)
    fitted = fit(method, in_batches((logits, pictures, labels)), CLASSES)
    assert fitted.at_bound == 1
    assert fitted.temperature == pytest.approx([HIGHEST] * 3, rel=0.01)
    assert method == "local" or fitted.passes < 7
    assert fitted.nll_after < fitted.nll_before
    assert "Warning: that is the highest allowed, 20" in fitted.described()


def test_the_description_is_a_sentence() -> None:
    fitted = fit("temperature", in_batches(split()), CLASSES)
    told = f"(over-confident before): NLL {fitted.nll_before:.3f} -> {fitted.nll_after:.3f} on the fitting images"
    assert fitted.described() == f"temperature {fitted.calibrator.get_parameter('temperature').item():.2f} {told}"
    assert "(under-confident before)" in fit("temperature", in_batches(split(0.5)), CLASSES).described()
    assert fit("vector", in_batches(split()), CLASSES).described().startswith("a factor and an offset for each class: ")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_the_nll_is_never_worse_even_if_the_network_is_calibrated(method: str, seed: int) -> None:
    whole = split(1.0, seed=seed)
    fitted = fit(method, in_batches(whole), CLASSES)
    assert fitted.nll_after <= fitted.nll_before
    corrected = (fitted.calibrator(whole[0], whole[1]), *whole[1:])
    assert mean_nll(*pixels(corrected)) <= mean_nll(*pixels(whole)) + 1e-7
    again = fit(method, in_batches(corrected), CLASSES)
    assert again.nll_after <= again.nll_before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gap", [0.0, 500.0])
def test_where_nothing_is_better_nothing_is_changed(method: str, gap: float) -> None:
    """Logits that are all equal under labels that are so too, or right with a probability of 1."""
    logits = torch.zeros(2, CLASSES, 4, 4)
    labels = torch.arange(CLASSES).repeat(2, 4, 1)
    logits.scatter_(1, labels[:, None], gap)
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    fitted = fit(method, lambda: [(logits, pictures, labels)], CLASSES)
    assert fitted.nll_after == fitted.nll_before
    assert fitted.at_bound == 0
    assert "nothing better was found" in fitted.described()
    for name, value in build(method, CLASSES).state_dict().items():
        assert torch.equal(fitted.calibrator.state_dict()[name], value)


@pytest.mark.parametrize("method", METHODS)
def test_void_pixels_and_images_count_nowhere(method: str) -> None:
    logits, pictures, labels = split()
    plain = fit(method, in_batches((logits, pictures, labels)), CLASSES)
    void = torch.full_like(labels, 255)
    batches = [*in_batches((logits, pictures, labels))(), (100 * logits, pictures, void)]
    assert fit(method, lambda: batches, CLASSES).nll_after == plain.nll_after
    if method != "local":  # a local temperature sees the logits of its neighbours, void or not
        changed = torch.where((labels == 255)[:, None], 50 - logits, logits)
        other = fit(method, in_batches((changed, pictures, labels)), CLASSES)
        for one, expected in zip(other.calibrator.parameters(), plain.calibrator.parameters(), strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_images_without_any_labelled_pixel_are_refused(method: str) -> None:
    logits, pictures, labels = split()
    with pytest.raises(InputError, match="no pixel of the images to calibrate on has a class"):
        fit(method, in_batches((logits, pictures, torch.full_like(labels, 255))), CLASSES)
    with pytest.raises(InputError, match="there are no images"):
        fit(method, list, CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits, pictures, labels = split()
    logits[3, 2, 1, 0] = value
    with pytest.raises(InputError, match="the network's logits are not all finite"):
        fit("temperature", in_batches((logits, pictures, labels)), CLASSES)


def test_what_does_not_fit_is_refused() -> None:
    logits, pictures, labels = split()
    with pytest.raises(InputError, match="method='temprature' is not known. Did you mean 'temperature'"):
        build("temprature", CLASSES)
    with pytest.raises(ValueError, match="logits of 4 classes, where 5 are expected"):
        fit("temperature", in_batches((logits, pictures, labels)), 5)
    with pytest.raises(ValueError, match="images must be torch.uint8"):
        fit("temperature", in_batches((logits, pictures.float(), labels)), CLASSES)
    with pytest.raises(ValueError, match="label 4 is not below 4 classes"):
        fit("temperature", in_batches((logits, pictures, torch.full_like(labels, 4))), CLASSES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_fit_of_the_same_values_in_float32(method: str, dtype: torch.dtype) -> None:
    logits, pictures, labels = split()
    half = logits.to(dtype)
    fitted = fit(method, in_batches((half, pictures, labels)), CLASSES)
    assert fitted.nll_after == fit(method, in_batches((half.float(), pictures, labels)), CLASSES).nll_after
    corrected = fitted.calibrator(half, pictures)
    assert corrected.dtype == torch.float32
    assert torch.equal(corrected, fitted.calibrator(half.float(), pictures))


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_calibrator_is_rebuilt_from_its_state(method: str) -> None:
    logits, pictures, labels = split()
    calibrator = fit(method, in_batches((logits, pictures, labels)), CLASSES).calibrator
    file = io.BytesIO()
    torch.save(calibrator.state_dict(), file)
    file.seek(0)
    rebuilt = build(method, CLASSES)
    rebuilt.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(rebuilt(logits, pictures), calibrator(logits, pictures))
    assert not calibrator(logits, pictures).requires_grad


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
    for logits, pictures in (example, (whole[0][:3, :, :7, :12], whole[1][:3, :, :7, :12])):
        torch.testing.assert_close(loaded(logits, pictures), calibrator(logits, pictures))


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_never_all_in_memory(method: str) -> None:
    logits, pictures, labels = split()
    watched: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def batches() -> Iterator[Batch]:
        nonlocal most
        for index in range(4):
            fresh = 1 * logits[index : index + 1]
            watched.append(weakref.ref(fresh))
            most = max(most, sum(reference() is not None for reference in watched))
            yield fresh, pictures[index : index + 1], labels[index : index + 1]

    fitted = fit(method, batches, CLASSES)
    gc.collect()
    assert len(watched) == 4 * fitted.passes
    assert most <= 2
    assert all(reference() is None for reference in watched)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_may_compute_the_logits_afresh_or_have_them_stored(method: str) -> None:
    logits, pictures, labels = split()
    expected = fit(method, in_batches((logits, pictures, labels)), CLASSES).nll_after

    def computed() -> Iterator[Batch]:
        with torch.inference_mode():
            for one, picture, truth in in_batches((logits, pictures, labels))():
                yield 1 * one, picture, truth

    with torch.inference_mode():
        assert fit(method, computed, CLASSES).nll_after == expected
    with StoredLogits() as stored:
        for one in in_batches((logits, pictures, labels.to(torch.uint8)))():
            stored.add(*one)
        assert fit(method, stored.batches, CLASSES).nll_after == expected


def test_vector_scaling_may_change_labels() -> None:
    logits, pictures, _ = split()
    calibrator = VectorScaling(CLASSES)
    with torch.no_grad():
        calibrator.bias[2] = 50
    assert (calibrator(logits, pictures).argmax(1) == 2).all()


def test_refitted_temperatures_are_those_of_fitting_anew_to_each_resample() -> None:
    """The brute-force twin: draw images, and fit a temperature to them as to any others."""
    random = torch.Generator().manual_seed(3)
    truth = 0.8 + 1.2 * torch.rand(12, 1, 1, 1, generator=random)  # images that differ in what they call for
    logits, pictures, labels = split(truth.expand(12, CLASSES, SIDE, SIDE), images=12)
    labels[5] = 255  # an image without a single pixel
    whole = logits, pictures, labels
    fitted = fit("temperature", in_batches(whole, (5, 7)), CLASSES)
    assert fitted.refitted is not None
    assert fitted.refitted.shape == (10_000,)
    times = resampled(lambda sums: dict(sums), [{"x": np.eye(12)}], 12, 10_000, seed=1)["x"].astype(int)
    again = []
    for drawn_times in times[:60]:
        chosen = np.repeat(np.arange(12), drawn_times)
        drawn_images = logits[chosen], pictures[chosen], labels[chosen]
        again.append(
            fit("temperature", in_batches(drawn_images, (12,)), CLASSES).calibrator.get_parameter("temperature").item()
        )
    assert np.std(again) > 0.02
    np.testing.assert_allclose(fitted.refitted[:60], again, rtol=0.002)


def test_refits_stay_within_the_bounds_and_methods_with_more_parameters_have_none() -> None:
    logits, pictures, _ = split(images=4)
    right = fit("temperature", in_batches((logits, pictures, logits.argmax(1))), CLASSES)  # never wrong
    assert right.refitted is not None
    np.testing.assert_allclose(right.refitted, LOWEST, rtol=1e-6)
    constant = fit("temperature", in_batches((0 * logits, pictures, logits.argmax(1))), CLASSES)
    assert constant.refitted is not None
    assert np.isfinite(constant.refitted).all()
    assert fit("vector", in_batches((logits, pictures, logits.argmax(1))), CLASSES).refitted is None
