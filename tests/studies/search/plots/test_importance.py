"""Bars of hyperparameter importance."""

import pytest
from matplotlib.patches import Rectangle

from studies.search import plots
from tests.segmentation.plots.drawn import RUNS, assert_fits, texts


def test_the_most_important_is_on_top() -> None:
    figure = plots.importances({"width": 0.0, "rate": 0.714, "batch": 0.004, "decay": 0.282}, "t")
    (axes,) = figure.axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == [0, 0.004, 0.282, 0.714]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["width", "batch", "decay", "rate"]
    assert texts(figure).split() == ["0%", "<1%", "28%", "71%"]
    low, high = axes.get_ylim()
    assert low < high
    assert_fits(figure)


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": 1.0}, dict.fromkeys(RUNS, 0.125)])
def test_importances_fit(shares: dict[str, float]) -> None:
    assert_fits(plots.importances(shares, RUNS[0]))
