import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import stats

from segmentation.scoring import bootstrap
from segmentation.scoring.bootstrap import Interval, holm, holm_levels, interval, p_value, resampled


def shares(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"share": sums["right"] / sums["all"]}


def themselves(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return sums


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    """Other tests draw in blocks of another size."""
    bootstrap._cached_draws.cache_clear()
    yield
    bootstrap._cached_draws.cache_clear()


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


def test_interval_covers_the_truth_at_about_the_nominal_rate() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        values = random.normal(0.3, 1, 80)
        means = resampled(lambda sums: {"m": sums["x"] / 80}, [{"x": values}], 80, 1000)["m"]
        low, high = interval(means, values.mean())
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.parametrize("block", [2, 3, 256])
def test_images_are_drawn_uniformly_with_replacement(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With powers of 16 as values, the digits of each sum are how often each image was drawn."""
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    images = {"x": 16.0 ** np.arange(5), "n": np.ones(5)}
    parts = [{name: values[start : start + 2] for name, values in images.items()} for start in (0, 2, 4)]
    sums = resampled(themselves, parts, 5, resamples=4000)
    assert (sums["n"] == 5).all()
    times = np.array([[int(total) // 16**index % 16 for index in range(5)] for total in sums["x"]])
    assert (times.sum(1) == 5).all()
    for index in range(5):  # each image is drawn Binomial(5, 1/5) times
        expected = 4000 * stats.binom(5, 0.2).pmf(range(4))
        found = [(times[:, index] == count).sum() for count in range(4)]
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


def times_drawn(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is drawn, `(R, N)`: the sums of the rows of an identity matrix."""
    return resampled(themselves, [{"x": np.eye(images)}], images, resamples, seed)["x"]


@pytest.mark.parametrize("images", [1, 256, 700])
def test_the_number_of_draws_is_the_number_of_images_and_each_is_drawn_alike(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", 256)  # 1, 1 and 3 blocks
    counts = times_drawn(images, 2000, seed=3)
    assert (counts.sum(1) == images).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.15)  # six standard errors


def test_cached_draws_give_what_new_ones_give_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((300, 4))

    def sums(seed: int) -> np.ndarray:
        return resampled(themselves, [{"x": values}], 300, 600, seed)["x"]

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "MAX_CACHED_DRAWS", 0)
        expected = [sums(seed) for seed in range(3)]
    assert bootstrap._cached_draws.cache_info().currsize == 0
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(sums, [0, 1, 2] * 6 + [2] * 6))
    assert bootstrap._cached_draws.cache_info().hits > 0
    for index, each in enumerate(found):
        np.testing.assert_array_equal(each, expected[index % 3 if index < 18 else 2])


def test_only_the_last_draws_are_cached_and_only_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_CACHED_DRAWS", 20_000)
    for images, cached in ((51, 0), (50, 1), (40, 1)):
        times_drawn(images, 400, seed=0)
        assert bootstrap._cached_draws.cache_info().currsize == cached
    assert sum(each.nbytes for each in bootstrap._draws(40, 400, 0)) == 40 * 400
    times_drawn(40, 400, seed=0)
    assert bootstrap._cached_draws.cache_info().hits == 2


def test_draws_of_a_large_split_are_made_one_block_at_a_time() -> None:
    """All of them would take 200 MB."""
    tracemalloc.start()
    try:
        first = next(iter(bootstrap._draws(100_000, 2_000, seed=0)))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first.shape == (2_000, 2048)
    assert first.nbytes < held < peak < 20 * 2**20
    assert bootstrap._cached_draws.cache_info().currsize == 0


def distances(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An ECE of 10 bins of 30 pixels each."""
    return {"ece": np.abs(sums["gap"]).sum(-1) / (40 * 30 * 10)}


def coverage(miscalibration: float) -> tuple[float, float]:
    """Coverage of the corrected and the plain percentile interval of an ECE; 40 images whose gaps have std 0.1."""
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


def test_the_bias_correction_restores_most_of_the_coverage_near_the_noise_floor() -> None:
    """The noise floor is 0.0126. Plain percentile intervals lie far too high there."""
    corrected, plain = coverage(0.01)
    assert plain < 0.3
    assert corrected > 0.65
    assert min(coverage(0.05)) > 0.85


def test_an_interval_is_defined_for_a_value_far_from_its_resamples() -> None:
    values = np.linspace(0.1, 0.2, 1000)
    for value in (0.0, 0.1, 0.2, 0.3):
        low, high = interval(values, value)
        assert 0.1 <= low < high <= 0.2


def test_an_undefined_metric_has_no_interval() -> None:
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


def test_equal_models_are_distinguished_at_about_the_nominal_rate() -> None:
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


def test_the_levels_of_intervals_by_hand() -> None:
    assert holm_levels([0.03]) == [0.95]
    assert holm_levels([0.04, 0.01, 0.02]) == pytest.approx([0.95, 1 - 0.05 / 3, 1 - 0.05 / 2])
    # 0.026 is not below 0.05 / 2, which ends the procedure: 0.04 is not tested at 0.05
    assert holm_levels([0.04, 0.001, 0.026]) == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 3, 1 - 0.05 / 2])
    assert holm_levels([]) == []
    random = np.random.default_rng(0)
    for _ in range(200):
        found = (0.2 * random.random(6) ** 3).tolist()
        tested = [p < 1 - level for p, level in zip(found, holm_levels(found), strict=True)]
        assert tested == [p < 0.05 for p in holm(found)]


def test_an_interval_is_written_with_four_decimals() -> None:
    assert str(Interval(-0.02, 0.123456)) == "[-0.0200, 0.1235]"
