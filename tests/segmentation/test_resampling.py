import numpy as np
import pytest
from scipy import stats

from segmentation import resampling
from segmentation.resampling import Interval, holm, interval, p_value, resampled


def shares(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"share": sums["right"] / sums["all"]}


def themselves(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return sums


def sample(images: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    everything = random.integers(50, 150, images)
    return {"right": random.binomial(everything, random.beta(8, 2, images)), "all": everything}


def test_interval_equals_scipy_s_bootstrap() -> None:
    data = sample()
    share = data["right"].sum() / data["all"].sum()
    ours = interval(resampled(shares, [data], 60, resamples=20_000)["share"], share)
    theirs = stats.bootstrap(
        (data["right"], data["all"]), lambda right, total, axis: right.sum(axis) / total.sum(axis), paired=True,
        vectorized=True, n_resamples=20_000, method="BCa", rng=1,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        values = random.normal(0.3, 1, 80)
        means = resampled(lambda sums: {"m": sums["x"] / 80}, [{"x": values}], 80, 1000)["m"]
        low, high = interval(means, values.mean())
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.parametrize("block", [2, 3, 256])
def test_every_image_is_drawn_like_every_other_with_replacement(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With powers of 16 as values, each sum spells out how often each image was drawn."""
    monkeypatch.setattr(resampling, "BLOCK", block)
    images = {"x": 16.0 ** np.arange(5), "n": np.ones(5)}
    parts = [{name: values[start : start + 2] for name, values in images.items()} for start in (0, 2, 4)]
    sums = resampled(themselves, parts, 5, resamples=4000)
    assert (sums["n"] == 5).all()
    times = np.array([[int(total) // 16**place % 16 for place in range(5)] for total in sums["x"]])
    assert (times.sum(1) == 5).all()
    for place in range(5):  # each image is drawn Binomial(5, 1/5) times
        expected = 4000 * stats.binom(5, 0.2).pmf(range(4))
        found = [(times[:, place] == count).sum() for count in range(4)]
        np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max()))
    assert np.cov(times[:, 0], times[:, 4])[0, 1] == pytest.approx(-5 / 25, abs=0.06)


def test_arrays_of_any_shape_are_summed_over_the_same_draws_and_blocks() -> None:
    random = np.random.default_rng(0)
    x = random.random((700, 3, 2))
    block = {"x": x, "first": x[:, 0, 0]}
    sums = resampled(themselves, [block], 700, resamples=50)
    assert sums["x"].shape == (50, 3, 2)
    np.testing.assert_allclose(sums["x"][:, 0, 0], sums["first"], rtol=1e-6)
    parts = [{name: values[s : s + 256] for name, values in block.items()} for s in (0, 256, 512)]
    np.testing.assert_array_equal(resampled(themselves, parts, 700, resamples=50)["x"], sums["x"])


def test_the_same_seed_draws_the_same_images() -> None:
    data = [{"x": np.arange(10.0)}]
    expected = resampled(themselves, data, 10, resamples=30)["x"]
    np.testing.assert_array_equal(resampled(themselves, data, 10, resamples=30)["x"], expected)
    assert not np.array_equal(resampled(themselves, data, 10, resamples=30, seed=1)["x"], expected)


def distances(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An ECE of 10 bins of 30 pixels each."""
    return {"ece": np.abs(sums["gap"]).sum(-1) / (40 * 30 * 10)}


def coverage(miscalibration: float) -> tuple[float, float]:
    """How often the corrected and the plain percentile interval hold an ECE; 40 images, gaps that differ by 0.1."""
    random = np.random.default_rng(3)
    corrected, plain = 0, 0
    for _ in range(200):
        gap = 30 * (miscalibration + random.normal(0, 0.1, (40, 10)))
        values = resampled(distances, [{"gap": gap}], 40, 1000)["ece"]
        low, high = interval(values, distances({"gap": gap.sum(0)})["ece"])
        corrected += low <= miscalibration <= high
        low, high = np.quantile(values, [0.025, 0.975])
        plain += low <= miscalibration <= high
    return corrected / 200, plain / 200


def test_the_correction_mends_the_coverage_of_distances_that_chance_enlarges() -> None:
    """Near the noise floor, 0.0126 here, plain intervals lie far too high; the correction takes most of that away."""
    corrected, plain = coverage(0.01)
    assert plain < 0.3
    assert corrected > 0.65
    assert min(coverage(0.05)) > 0.85


def test_an_interval_is_defined_however_far_the_figure_lies_from_its_resamples() -> None:
    values = np.linspace(0.1, 0.2, 1000)
    for value in (0.0, 0.1, 0.2, 0.3):
        low, high = interval(values, value)
        assert 0.1 <= low < high <= 0.2


def test_a_figure_that_is_not_defined_has_no_interval() -> None:
    found = resampled(lambda sums: {"x": sums["x"] * np.nan}, [{"x": np.ones(4)}], 4, resamples=10)["x"]
    assert np.isnan(interval(found, np.nan)).all()
    assert resampled(shares, [], 0) == {}


def test_p_value_is_the_level_at_which_the_interval_touches_0() -> None:
    random = np.random.default_rng(0)
    differences = random.normal(0.02, 0.01, 10_000)
    for value in (0.02, 0.018, 0.023):
        low, _ = interval(differences, value, level=1 - p_value(differences, value))
        assert low == pytest.approx(0, abs=5e-4)
    assert p_value(differences, float(np.median(differences))) == pytest.approx(2 * stats.norm.cdf(-2), abs=0.01)
    assert p_value(-differences, -0.02) == pytest.approx(p_value(differences, 0.02))
    assert p_value(np.zeros(100), 0.0) == 1
    assert p_value(np.full(9_999, 0.1), 0.1) == 2 / 10_000


def test_equal_networks_are_told_apart_about_as_seldom_as_promised() -> None:
    random = np.random.default_rng(2)
    found = 0
    for _ in range(300):
        difference = random.normal(0, 1, 60) + random.normal(0, 1, 60)
        found += p_value(resampled(themselves, [{"d": difference}], 60, 1000)["d"], difference.sum()) < 0.05
    assert 0.02 <= found / 300 <= 0.09


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_interval_is_written_with_four_decimals() -> None:
    assert str(Interval(-0.02, 0.123456)) == "[-0.0200, 0.1235]"
