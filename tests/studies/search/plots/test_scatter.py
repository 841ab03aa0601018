"""The scatter plot shows each trial at its values, with contours where there are enough trials."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import TriContourSet

from studies.search import plots
from tests.segmentation.plots.drawn import NOTE, assert_fits, legend
from tests.studies.search.plots.drawn import DECAYS, GRID, RATES, ends, marked


def over(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    pruned: np.ndarray | None = None,
    higher_is_better: bool = True,
    best: int | None = None,
) -> Figure:
    none = np.zeros(len(x), bool)
    return plots.scatter(
        x, y, values, none if pruned is None else pruned, "learning rate", "weight decay", "t", "mean IoU",
        higher_is_better, best, "trial 4, best by val/loss", NOTE,
    )  # fmt: skip


def contours(figure: Figure) -> list[TriContourSet]:
    return [each for each in figure.axes[0].collections if isinstance(each, TriContourSet)]


def tick_places(axes: Axes) -> dict[str, float]:
    return {
        tick.get_text(): float(place) for tick, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }


def test_zero_is_drawn_one_decade_below_the_rest_of_a_logarithmic_axis() -> None:
    x, y = (each.ravel() for each in np.meshgrid(RATES, DECAYS))
    figure = over(x, y, GRID.ravel())
    axes = figure.axes[0]
    ticks = tick_places(axes)
    assert ticks["0.01"] - ticks["0.001"] == pytest.approx(ticks["0.001"] - ticks["0"])
    drawn = np.asarray(axes.collections[-1].get_offsets())
    np.testing.assert_allclose(drawn[:, 0], np.log10(x))
    np.testing.assert_allclose(drawn[y == 0, 1], ticks["0"])
    np.testing.assert_allclose(drawn[y == 0.01, 1], ticks["0.01"])
    for (low, high), places in zip((axes.get_xlim(), axes.get_ylim()), drawn.T, strict=True):
        assert low < places.min()
        assert high > places.max()
    assert "0" not in [tick.get_text() for tick in axes.get_xticklabels()]
    assert_fits(figure)


@pytest.mark.parametrize(
    "values", [[0.1, 0.5, 1.0], [0, 0.1, 1.0], [-1.0, 0.01, 1.0], [0.0, 0.0, 0.0], [1e-9, 1.0, 0.5], [1e-3, 0.03, 0.0]]
)
def test_ticks_are_at_the_values_of_their_labels(values: list[float]) -> None:
    figure = over(np.ones(3), np.array(values), np.arange(3.0))
    assert_fits(figure)
    ticks = tick_places(figure.axes[0])
    assert len(ticks) >= 2
    logarithmic = min(values) >= 0 and 10 * min(value for value in [*values, 1] if value > 0) < max(values)
    for name, place in ticks.items():
        if logarithmic and name != "0":
            assert 10**place == pytest.approx(float(name))
        elif not logarithmic:
            assert place == pytest.approx(float(name), abs=1e-9)
    if logarithmic:
        assert ("0" in ticks) == (0 in values)
        assert len(ticks) <= 9


def test_trials_are_drawn_by_state() -> None:
    x, y = 10.0 ** -np.arange(1, 8), 10.0 ** -np.array([3, 1, 4, 1, 5, 2, 6])
    values = np.array([0.5, 0.7, 0.6, 0.9, 0.4, math.nan, math.nan])
    pruned = np.array([0, 0, 0, 1, 0, 0, 1], bool)
    for higher_is_better, best in ((True, 1), (True, 2), (False, 4)):
        figure = over(x, y, values, pruned, higher_is_better, best)
        axes = figure.axes[0]
        points = axes.collections[-1]
        assert np.asarray(points.get_array()).tolist() == [0.5, 0.7, 0.6, 0.4]
        (crosses,), (star,), (bare,) = (marked(axes, marker) for marker in "x*o")
        assert ends(crosses) == (np.log10(x[pruned]).tolist(), np.log10(y[pruned]).tolist())
        assert ends(star) == ([math.log10(x[best])], [math.log10(y[best])])
        assert ends(bare) == ([math.log10(x[5])], [math.log10(y[5])])
        assert legend(figure) == [
            "complete (4)",
            f"trial 4, best by val/loss: {values[best]:.3f}",
            "pruned (2)",
            "no value (1)",
        ]
        assert len(contours(figure)) == 1
        assert_fits(figure)


def test_contours_are_linear_in_logarithms() -> None:
    """A plane through the logarithms has straight contours, here one through the middle."""
    x, y = (each.ravel() for each in np.meshgrid([1e-4, 1e-2], [1e-4, 1e-3]))
    (drawn,) = contours(over(x, y, np.log10(x)))
    middle = np.asarray(drawn.get_paths()[4].vertices)  # from -3.25 to -3
    assert np.asarray(drawn.levels)[3:5].tolist() == [-3.25, -3]
    assert {round(float(place), 6) for place in middle[:, 0]} == {-3.25, -3.0}


def test_contours_need_four_trials_that_are_not_on_one_line() -> None:
    line = 10.0 ** -np.arange(1, 7)
    assert not contours(over(line, line, np.arange(6.0)))
    assert not contours(over(line, np.ones(6), np.arange(6.0)))
    assert not contours(over(line[:3], line[[0, 2, 1]], np.arange(3.0)))
    assert not contours(over(line[:4], line[[0, 2, 1, 3]], np.ones(4)))
    assert contours(over(line[:4], line[[0, 2, 1, 3]], np.arange(4.0)))
    assert contours(over(np.tile(line[:4], 2), np.tile(line[[0, 2, 1, 3]], 2), np.arange(8.0)))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_without_complete_trials_there_are_no_colours(count: int) -> None:
    x = 10.0 ** -np.arange(count)
    for pruned in (True, False):
        figure = over(x, x, np.full(count, math.nan), np.full(count, pruned))
        assert len(figure.axes) == 1
        assert_fits(figure)


def test_one_trial_is_the_best() -> None:
    figure = over(np.array([0.01]), np.array([0.0]), np.array([0.5]), best=0)
    assert legend(figure) == ["complete (1)", "trial 4, best by val/loss: 0.500"]
    assert_fits(figure)
