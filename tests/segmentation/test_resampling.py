import numpy as np
import pytest
from scipy import stats

from segmentation import resampling
from segmentation.resampling import intervals, resampled_sums


def shares(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"share": sums["right"] / sums["all"]}


def sample(images: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    everything = random.integers(50, 150, images)
    return {"right": random.binomial(everything, random.beta(8, 2, images)), "all": everything}


def test_interval_equals_scipy_s_bootstrap() -> None:
    data = sample()
    ours = intervals(shares, data, resamples=20_000)["share"]
    theirs = stats.bootstrap(
        (data["right"], data["all"]), lambda right, total, axis: right.sum(axis) / total.sum(axis), paired=True,
        vectorized=True, n_resamples=20_000, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        values = random.normal(0.3, 1, 80)
        low, high = intervals(lambda sums: {"m": sums["x"] / 80}, {"x": values}, resamples=1000)["m"]
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_sums_are_those_of_images_drawn_with_replacement() -> None:
    """With powers of a large base as values, each sum spells out how often each image was drawn."""
    sums = resampled_sums({"x": 100.0 ** np.arange(5), "n": np.ones(5)}, resamples=200)
    assert (sums["n"] == 5).all()
    times = [[int(total) // 100**place % 100 for place in range(5)] for total in sums["x"]]
    assert all(sum(row) == 5 for row in times)
    assert np.mean(times, axis=0) == pytest.approx(1, abs=0.25)


def test_arrays_of_any_shape_are_summed_over_the_same_draws() -> None:
    random = np.random.default_rng(0)
    x = random.random((7, 3, 2))
    sums = resampled_sums({"x": x, "first": x[:, 0, 0]}, resamples=50)
    assert sums["x"].shape == (50, 3, 2)
    np.testing.assert_allclose(sums["x"][:, 0, 0], sums["first"])


def test_the_same_seed_draws_the_same_images_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"x": np.arange(10.0)}
    expected = resampled_sums(data, resamples=30)["x"]
    np.testing.assert_array_equal(resampled_sums(data, resamples=30)["x"], expected)
    assert not np.array_equal(resampled_sums(data, resamples=30, seed=1)["x"], expected)
    monkeypatch.setattr(resampling, "BLOCK", 40)
    np.testing.assert_array_equal(resampled_sums(data, resamples=30)["x"], expected)


def test_a_figure_that_is_not_defined_has_no_interval() -> None:
    found = intervals(lambda sums: {"x": sums["x"] * np.nan}, {"x": np.ones(4)}, resamples=10)["x"]
    assert np.isnan(found).all()
    assert intervals(shares, {"right": np.zeros(0), "all": np.zeros(0)}) == {}
