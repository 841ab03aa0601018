"""Line breaks, colours, and figures as arrays."""

import numpy as np
import pytest

from segmentation import plots
from segmentation.plots.style import colours, figure_with_axes, in_percent, wrapped
from tests.segmentation.plots.drawn import RUNS


def test_long_lines_break_at_dots() -> None:
    assert wrapped("unet · none · lr 0.1 · wd 0", 1.5, 10) == "unet · none ·\nlr 0.1 · wd 0"
    assert wrapped("one two three four five", 1.0, 10) == "one two\nthree four\nfive"
    assert wrapped("kept\nas it is", 9.0, 10) == "kept\nas it is"
    assert wrapped("lr 1e-05", 0.5, 10) == "lr 1e-05"
    assert wrapped("aaaaaaaaaaaa", 0.8, 10) == "aaaaaaaaaa\naa"
    assert wrapped("models:/sbd-fcn-resnet50/1", 2.0, 14) == "models:/sbd-fcn-\nresnet50/1"
    assert wrapped("", 1.0, 10) == ""


@pytest.mark.parametrize("name", RUNS)
def test_wrapping_loses_nothing(name: str) -> None:
    for inches in (0.5, 1.0, 2.5, 9.0):
        assert wrapped(name, inches, 9).replace("\n", "").replace(" ", "") == name.replace(" ", "")


@pytest.mark.parametrize("count", [0, 1, 8, 9, 30])
def test_every_series_has_its_own_colour(count: int) -> None:
    assert len(set(colours(count))) == len(colours(count)) == count


def test_percentages_are_not_rounded_away() -> None:
    _, axes = figure_with_axes(4, 3)
    in_percent(axes.yaxis)
    assert [axes.yaxis.get_major_formatter()(share) for share in (0.025, 0.1 + 0.2, 1)] == ["2.5%", "30%", "100%"]


def test_a_figure_is_an_image_of_its_size() -> None:
    figure, axes = figure_with_axes(2, 1)
    axes.plot([0, 1])
    picture = plots.pixels(figure)
    assert picture.shape == (120, 240, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10
