"""Conventions compared with the installed tools, a loop, calculations by hand, and their page."""

import contextlib
import io
import itertools
import math
import re

import numpy as np
import pytest
import torch
from netcal.metrics import ECE
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from segmentation.errors import InputError
from segmentation.scoring.conventions import CONVENTIONS, assign, ece
from segmentation.scoring.pixel_predictions import pixel_predictions
from segmentation.scoring.reliability import Reliability
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs/bin-conventions.md").read_text()
FLOATS = [np.float32, np.float64]


def of_torchmetrics(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    return binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct).int(), bins).item()


def of_netcal(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    return ECE(bins).measure(confidence, correct)


def of_starter_code(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The code of the exercise, one pixel at a time."""
    total = 0.0
    for k in range(bins):
        lower, upper = k / bins, (k + 1) / bins
        inside = [(c, right) for c, right in zip(confidence, correct, strict=True) if c >= lower and c < upper]
        if inside:
            accuracy = sum(bool(right) for _, right in inside) / len(inside)
            mean = sum(float(c) for c, _ in inside) / len(inside)
            total += abs(accuracy - mean) * len(inside) / len(confidence)
    return total


def of_reliability(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    reliability = Reliability()
    values = torch.from_numpy(confidence)[None]
    reliability.add_confidences(values, torch.from_numpy(correct)[None], torch.ones_like(values, dtype=torch.bool))
    return reliability.ece(bins)


TOOLS = {
    "(a, b]": of_reliability,
    "torchmetrics": of_torchmetrics,
    "netcal": of_netcal,
    "starter-code": of_starter_code,
}


def tolerance(convention: str, dtype: type) -> float:
    """torchmetrics sums in the confidence's own precision, all others in float64."""
    return 1e-6 if (convention, dtype) == ("torchmetrics", np.float32) else 1e-12


def pixels(count: int, dtype: type, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    confidence = random.random(count).astype(dtype)
    return confidence, random.random(count) < confidence**2


def edges_and_neighbours(bins: int, dtype: type) -> np.ndarray:
    edges = [dtype(k / bins) for k in range(bins + 1)]
    near = {np.nextafter(edge, dtype(towards)) for edge in edges for towards in (0, 1)}
    return np.array(sorted({*edges, *near}), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bins", [1, 10, 15, 20])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_random_confidences(convention: str, bins: int, dtype: type) -> None:
    confidence, correct = pixels(2000, dtype)
    expected = TOOLS[convention](confidence, correct, bins)
    assert ece(confidence, correct, bins, convention) == pytest.approx(expected, abs=tolerance(convention, dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_edge_and_its_neighbours_are_in_the_tool_s_bin(convention: str, bins: int, dtype: type) -> None:
    """A correct and a wrong pixel have another ECE if they share a bin: an edge, and the middles of bins beside it."""
    middles = (np.arange(bins) + 0.5) / bins
    pairs = itertools.product(edges_and_neighbours(bins, dtype), middles)
    for value, middle in ((value, middle) for value, middle in pairs if abs(value - middle) < 1.6 / bins):
        confidence, correct = np.array([value, middle], dtype), np.array([value < 0.5, value >= 0.5])
        expected = TOOLS[convention](confidence, correct, bins)
        ours = ece(confidence, correct, bins, convention)
        assert ours == pytest.approx(expected, abs=tolerance(convention, dtype)), (value, middle)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_confidences_that_are_all_on_edges(convention: str, dtype: type) -> None:
    random = np.random.default_rng(0)
    for bins in (10, 12, 15, 20, 30):
        confidence = random.choice(edges_and_neighbours(bins, dtype), 500)
        correct = random.random(500) < 0.5
        expected = TOOLS[convention](confidence, correct, bins)
        assert ece(confidence, correct, bins, convention) == pytest.approx(expected, abs=tolerance(convention, dtype))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("right", [0, 1, 3])
def test_one_confidence_alone(convention: str, value: float, right: int) -> None:
    confidence, correct = np.full(3, value, np.float32), np.arange(3) < right
    expected = TOOLS[convention](confidence, correct, 10)
    assert ece(confidence, correct, 10, convention) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_many_pixels(convention: str) -> None:
    confidence, correct = pixels(20_000 if convention == "starter-code" else 1_000_000, np.float32)
    expected = TOOLS[convention](confidence, correct, 15)
    assert ece(confidence, correct, 15, convention) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_logits_that_saturate_to_one_through_the_multiclass_metrics() -> None:
    """Softmax is taken once: where it is repeated on another layout it may round to 1 or to the number below."""
    random = torch.Generator().manual_seed(0)
    probabilities = (12 * torch.randn(4, 21, 16, 16, generator=random)).softmax(1)
    confidence, label = probabilities.max(1)
    labels = torch.where((confidence == 1) & (torch.arange(16) % 2 == 0), (label + 1) % 21, label)
    labels[:, 0] = 255
    valid = labels != 255
    confidence, correct = confidence[valid], (label == labels)[valid]
    assert (confidence == 1).sum() > 20
    torchmetrics = multiclass_calibration_error(probabilities, labels, 21, 10, ignore_index=255).item()
    assert ece(confidence, correct, convention="torchmetrics") == pytest.approx(torchmetrics, abs=1e-6)
    netcal = ECE(10).measure(torch.movedim(probabilities, 1, -1)[valid].numpy(), labels[valid].numpy())
    assert ece(confidence, correct, convention="netcal") == pytest.approx(netcal, abs=1e-12)
    assert ece(confidence, correct) == pytest.approx(netcal, abs=1e-6)
    assert torchmetrics > ece(confidence, correct) + 0.01


def test_torchmetrics_multiclass_rounds_float64_to_float32_first() -> None:
    random = np.random.default_rng(0)
    confidence = random.choice(edges_and_neighbours(15, np.float64), 300)
    correct = random.random(300) < 0.5
    probabilities = torch.from_numpy(np.stack([confidence, np.zeros(300), np.zeros(300)], 1))
    theirs = multiclass_calibration_error(probabilities, torch.from_numpy(~correct).long(), 3, 15).item()
    rounded = ece(confidence.astype(np.float32), correct, 15, "torchmetrics")
    assert rounded == pytest.approx(theirs, abs=1e-6)
    assert abs(ece(confidence, correct, 15, "torchmetrics") - theirs) > 0.01


def test_bins_of_zero_an_edge_and_one() -> None:
    confidence = torch.tensor([0.0, 0.5, 1.0])
    bins = {name: assign(confidence, 10, name).averaged_in.tolist() for name in CONVENTIONS}
    assert bins == {"(a, b]": [0, 4, 9], "torchmetrics": [0, 5, 10], "netcal": [0, 5, 9], "starter-code": [0, 5, -1]}
    assert assign(confidence, 10, "netcal").confidence[-1] == 1 - np.finfo(np.float32).eps


@pytest.mark.parametrize(("value", "averaged_in"), [(0.7, 7), (0.9, 9)])
def test_netcal_weighs_a_float32_confidence_in_another_bin_than_it_averages_it_in(
    value: float, averaged_in: int
) -> None:
    confidence, correct = np.full(4, value, np.float32), np.array([True, False, False, False])
    placement = assign(confidence, 10, "netcal")
    assert (placement.averaged_in[0], placement.weighed_in[0]) == (averaged_in, averaged_in - 1)
    assert of_netcal(confidence, correct, 10) == ece(confidence, correct, 10, "netcal") == 0
    assert ece(confidence, correct) == pytest.approx(value - 0.25, abs=1e-7)
    assert of_netcal(np.full(4, value), correct, 10) == pytest.approx(value - 0.25, abs=1e-12)


def test_netcal_takes_the_top_label_only_where_three_labels_occur() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    labels = np.array([0, 0])
    assert ECE(10).measure(probabilities, labels) == pytest.approx(of_netcal(probabilities[:, 1], labels == 1, 10))
    with pytest.raises(RuntimeError, match="more than 2 confidence dims"):
        ECE(10).measure(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1]))


def test_torchmetrics_has_the_edge_3_15_above_it_in_float32() -> None:
    confidence, correct = np.array([0.17, 0.2, 0.25, 0.9], np.float32), np.array([True, False, False, True])
    assert {name: assign(confidence, 15, name).averaged_in[1] for name in CONVENTIONS} == {
        "(a, b]": 2,
        "torchmetrics": 2,
        "netcal": 3,
        "starter-code": 3,
    }
    for convention, measure in TOOLS.items():
        expected = measure(confidence, correct, 15)
        assert ece(confidence, correct, 15, convention) == pytest.approx(expected, abs=1e-6)


def test_a_logit_gap_of_17_is_a_confidence_of_one() -> None:
    logits = torch.tensor([[16.0, 17.0], [0.0, 0.0]])[None, :, :, None]
    below, one = pixel_predictions(logits, torch.zeros(1, 2, 1, dtype=torch.long)).confidence.flatten()
    assert below < one == 1


def test_torchmetrics_counts_stop_at_2_to_the_24() -> None:
    """The first 2**24 pixels are right and a quarter as many wrong, but no sum or count goes beyond 2**24."""
    right, wrong = 2**24, 2**22
    confidence, correct = np.full(right + wrong, 0.95, np.float32), np.arange(right + wrong) < right
    theirs = binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(correct), 10, validate_args=False
    ).item()
    assert theirs == 0
    assert ece(confidence, correct, 10, "torchmetrics") == pytest.approx(0.15, abs=1e-7)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_without_pixels_the_ece_is_nan(convention: str, dtype: type) -> None:
    assert math.isnan(ece(np.zeros(0, dtype), np.zeros(0, bool), 10, convention))


def test_without_pixels_torchmetrics_gives_nan_and_netcal_raises() -> None:
    assert math.isnan(of_torchmetrics(np.zeros(0, np.float32), np.zeros(0, bool), 10))
    with pytest.raises(AssertionError, match="No samples provided"):
        of_netcal(np.zeros(0, np.float32), np.zeros(0, bool), 10)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_arrays_and_tensors_give_the_same_and_are_not_changed(convention: str) -> None:
    confidence, correct = pixels(1000, np.float32)
    confidence[:2] = 0, 1
    confidence.setflags(write=False)
    before = confidence.copy()
    expected = ece(confidence, correct, 10, convention)
    assert ece(torch.tensor(before), torch.from_numpy(correct), 10, convention) == expected
    np.testing.assert_array_equal(confidence, before)


def test_an_unknown_convention_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match="convention='torchmetric'.*'torchmetrics'"):
        ece(np.zeros(1), np.zeros(1, bool), convention="torchmetric")


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        (np.zeros(2), np.zeros(2, bool), 0, "bins=0"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), 10, "must be float32 or float64 (N,), not float64 (2, 2)"),
        (torch.zeros(2).bfloat16(), np.zeros(2, bool), 10, "not torch.bfloat16 (2,)"),
        (np.zeros(2), np.zeros(3, bool), 10, "correct must be bool (2,), not bool (3,)"),
        (np.zeros(2), np.zeros(2, int), 10, "correct must be bool (2,), not int64 (2,)"),
        (np.array([0.5, 1.5]), np.zeros(2, bool), 10, "confidence 1.5 is not in [0, 1]"),
        (np.array([0.5, np.nan]), np.zeros(2, bool), 10, "confidence nan is not in [0, 1]"),
    ],
)
def test_wrong_shapes_types_and_values_are_refused(
    confidence: np.ndarray, correct: np.ndarray, bins: int, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ece(confidence, correct, bins)


def test_the_page_prints_what_it_shows() -> None:
    snippets = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) == PAGE.count("```python") == 3
    for code, shown in snippets:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert printed.getvalue() == shown


def test_the_page_calculates_right() -> None:
    sums = re.findall(r"`([^`\n]+) = ([\d.]+)`", PAGE)
    assert len(sums) == 9
    for calculation, result in sums:
        half_a_digit = 0.5 * 10 ** -len(result.partition(".")[2])
        assert eval(calculation) == pytest.approx(float(result), abs=half_a_digit + 1e-12), calculation


def test_the_page_names_every_convention() -> None:
    assert re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE) == list(CONVENTIONS)
