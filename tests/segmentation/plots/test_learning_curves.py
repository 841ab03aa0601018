"""Curves are the values over epochs from one."""

import math

import numpy as np
import pytest

from segmentation import plots
from tests.segmentation.plots.drawn import RUNS, assert_fits, legend, strokes


def test_curves_are_the_values_over_epochs_from_one() -> None:
    figure = plots.curves("Loss", "nats", {"train": [3.0, 2.0, 1.0], "val": [3.5, 3.0, 2.9]}, best_epoch=3)
    train, val, best = figure.axes[0].lines
    assert np.asarray(train.get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(val.get_ydata()).tolist() == [3.5, 3.0, 2.9]
    assert next(iter(np.asarray(best.get_xdata()))) == 3


@pytest.mark.parametrize("epochs", [1, 3])
def test_bands_are_the_intervals_of_each_epoch(epochs: int) -> None:
    values, low, high = [0.3, 0.2, math.nan][:epochs], [0.2, 0.1, math.nan][:epochs], [0.5, 0.3, math.nan][:epochs]
    figure = plots.curves("ECE", "ECE", {"val": values, "other": values}, 1, {"val": (low, high)})
    wanted = [[[epoch + 1, low[epoch]], [epoch + 1, high[epoch]]] for epoch in range(min(epochs, 2))]
    assert strokes(figure.axes[0]) == wanted
    assert_fits(figure)


def test_a_run_has_one_colour_and_a_stroke_for_each_series() -> None:
    runs = {"a": {"train": [3.0, 2.0], "val": [3.5, 3.0]}, "b": {"train": [1.0], "val": [2.0]}}
    figure = plots.curves_of_runs("Loss", "nats", runs)
    lines = figure.axes[0].lines
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[3.0, 2.0], [3.5, 3.0], [1.0], [2.0]]
    assert [line.get_linestyle() for line in lines] == ["--", "-", "--", "-"]
    colours = [line.get_color() for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert legend(figure) == ["a", "b", "train", "val"]


@pytest.mark.parametrize("count", [0, 1, 30])
def test_runs_fit_for_any_number_and_names(count: int) -> None:
    names = [f"{RUNS[place % 8]} · {place}" for place in range(count)]
    figure = plots.curves_of_runs(RUNS[0], "nats", {name: {"val": [1.0, math.nan]} for name in names})
    assert len({line.get_color() for line in figure.axes[0].lines}) == count
    assert_fits(figure)


def test_one_bad_epoch_does_not_flatten_the_others() -> None:
    bad = plots.curves_of_runs("Loss", "nats", {"A": {"val": [160.0, 3.0, 1.0, 0.8, 0.7]}})
    assert bad.axes[0].get_yscale() == "log"
    usual = plots.curves("Loss", "nats", {"val": [3.0, 1.0, 0.8, 0.7]}, best_epoch=4)
    assert usual.axes[0].get_yscale() == "linear"
