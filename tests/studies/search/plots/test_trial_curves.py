"""Learning curves of trials, coloured by state."""

import math

import numpy as np

from studies.search import plots
from tests.segmentation.plots.drawn import RUNS, assert_fits, legend
from tests.studies.search.plots.drawn import ends, marked


def test_the_end_of_a_curve_shows_its_state() -> None:
    curves = [
        ("a", [0.3, 0.5, 0.6], "complete"),
        ("b", [0.2, 0.25], "pruned"),
        ("c", [0.3, math.nan], "failed"),
        ("d", [], "failed"),
        ("e", [math.nan], "failed"),
        ("f", [0.1], "pruned"),
    ]
    figure = plots.trial_curves(curves, "t", "mean IoU")
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    for name, values, _ in curves:
        np.testing.assert_array_equal(ends(lines[name]), (np.arange(1, len(values) + 1), values))
    colours = [lines[name].get_color() for name in "abcf"]
    assert colours[1] == colours[3]
    assert len(set(colours)) == 3
    assert [ends(line) for line in marked(axes, "x")] == [([2], [0.25]), ([1], [0.1])]
    assert [ends(line) for line in marked(axes, "D")] == [([1], [0.3])]
    assert legend(figure) == ["complete (1)", "pruned (2)", "failed (3)"]
    assert axes.get_yscale() == "linear"
    assert_fits(figure)


def test_a_diverged_curve_does_not_flatten_the_others() -> None:
    usual = [("a", [1.0, 0.5, 0.4], "complete")] * 59
    figure = plots.trial_curves([*usual, ("z", [3.0, 1e9, math.inf, math.nan], "failed")], "t", "nats")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[1] < 10
    (diamond,) = marked(axes, "D")
    assert ends(diamond) == ([3], [5])
    assert [text.get_text() for text in figure.texts if "Values above" in text.get_text()] == [
        "Values above 5 are drawn at 5."
    ]
    assert legend(figure) == ["complete (59)", "failed (1)"]
    assert_fits(figure)


def test_no_curves_and_those_of_a_running_trial_fit() -> None:
    assert_fits(plots.trial_curves([], RUNS[0], "nats"))
    figure = plots.trial_curves([("a", [1.0], "running")], RUNS[0], "nats")
    assert legend(figure) == ["running (1)"]
    assert_fits(figure)
