"""The history shows the best value so far, and outliers do not flatten it."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from studies.search import plots
from tests.segmentation.plots.drawn import NOTE, RUNS, assert_fits, legend
from tests.studies.search.plots.drawn import ends, marked


def history(higher_is_better: bool, **searches: list[float]) -> Figure:
    numbers = {name: (20.0 * np.arange(1, len(each) + 1), np.array(each)) for name, each in searches.items()}
    return plots.search_history(numbers, "t", "mean IoU", higher_is_better, NOTE)


def test_history_is_the_best_so_far() -> None:
    values = [math.nan, 0.5, 0.4, math.nan, 0.6]
    for sign, higher_is_better in ((1, True), (-1, False)):
        figure = history(higher_is_better, grid=[sign * value for value in values], tpe=[sign * 0.55])
        steps, dots, other, _ = figure.axes[0].lines
        assert steps.get_drawstyle() == "steps-post"
        np.testing.assert_array_equal(ends(steps)[1], sign * np.array([math.nan, 0.5, 0.5, 0.5, 0.6]))
        np.testing.assert_array_equal(ends(dots)[1], sign * np.array(values))
        assert ends(steps)[0] == [20, 40, 60, 80, 100]
        assert steps.get_color() == dots.get_color() != other.get_color()
        assert legend(figure) == ["grid", "tpe"]
        assert_fits(figure)


@pytest.mark.parametrize("far", [30.0, 1e9, math.inf])
def test_one_diverged_trial_does_not_flatten_a_history(far: float) -> None:
    values = [far, 0.9, 0.5, 0.6, 0.45, 0.44, 0.43]
    for sign, marker in ((1, "^"), (-1, "v")):
        figure = history(sign < 0, a=[sign * value for value in values], b=[sign * 0.8])
        axes = figure.axes[0]
        low, high = sorted(sign * limit for limit in axes.get_ylim())
        assert 0.3 < low < 0.43
        assert 0.8 < high < 2  # shows the best of both
        (clipped,) = marked(axes, marker)
        out = [place for place, value in enumerate(values) if value > high]
        assert out[0] == 0
        assert ends(clipped) == ([20.0 * (place + 1) for place in out], [sign * high] * len(out))
        assert legend(figure) == ["a", "b", "trial outside the axis"]
        assert_fits(figure)


@pytest.mark.parametrize("values", [[], [0.5], [math.nan], [math.nan] * 3, [0.5] * 3, [math.inf, 0.5], [-math.inf] * 2])
def test_a_history_of_few_trials_fits(values: list[float]) -> None:
    assert_fits(history(True, a=values, b=[]))


def test_eight_searches_with_long_names_fit() -> None:
    assert_fits(plots.search_history(dict.fromkeys(RUNS, (np.arange(3), np.arange(3.0))), RUNS[0], "y", False, NOTE))
