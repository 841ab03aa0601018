"""A forest plot shows each difference, its interval, and whether it is significant."""

import numpy as np

from segmentation import plots
from segmentation.scoring.bootstrap import Interval
from tests.segmentation.plots.drawn import NOTE, RUNS, assert_fits, strokes, texts

ROWS = [
    ("a − b", 0.03, Interval(0.02, 0.05), True),
    ("c − d", -0.01, Interval(-0.02, 0.01), False),
    ("e − f", -0.03, Interval(-0.04, -0.01), True),
    ("g − h", np.nan, Interval(np.nan, np.nan), False),
]


def test_each_row_is_a_difference_with_its_interval() -> None:
    figure = plots.differences(ROWS, "a title", "ECE, A − B", NOTE)
    axes = figure.axes[0]
    zero, *points = axes.lines
    assert np.asarray(zero.get_xdata()).tolist() == [0, 0]
    np.testing.assert_equal(
        [point.get_xydata().tolist() for point in points], [[[row[1], at]] for at, row in enumerate(ROWS)]
    )
    assert strokes(axes) == [[[row[2].low, at], [row[2].high, at]] for at, row in enumerate(ROWS[:3])]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row[0] for row in ROWS]
    assert texts(figure).split("\n") == [
        "+0.0300 [0.0200, 0.0500]",
        "-0.0100 [-0.0200, 0.0100]",
        "-0.0300 [-0.0400, -0.0100]",
        "undefined",
    ]
    bottom, top = axes.get_ylim()
    assert bottom > top


def test_colour_and_filling_show_whether_a_difference_is_significant() -> None:
    _, above, around, below, undefined = plots.differences(ROWS, "t", "x").axes[0].lines
    assert above.get_color() == below.get_color() != around.get_color() == undefined.get_color()
    assert above.get_markerfacecolor() == below.get_markerfacecolor() == above.get_color()
    assert around.get_markerfacecolor() == undefined.get_markerfacecolor() == "white"


def test_rows_fit_for_any_number_and_names() -> None:
    pairs = [(f"{first} − {second}", 0.1, Interval(0.0, 0.2), False) for first in RUNS[:3] for second in RUNS[5:]]
    for count in (0, 1, 9):
        figure = plots.differences(pairs[:count], RUNS[0], "x", NOTE)
        assert ("nothing to compare" in texts(figure)) == (count == 0)
        assert_fits(figure)
