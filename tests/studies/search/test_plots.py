"""Pictures of a search show its values, and stay readable whatever the trials came to."""

import math
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.tri import TriContourSet

from studies.search import plots
from studies.search.plots import _ink
from tests.segmentation.plots.drawn import NOTE, RUNS, assert_fits, legend, texts

RATES, DECAYS = np.array([1e-4, 1e-3, 1e-2, 5e-2]), np.array([0, 1e-3, 1e-2, 5e-2])
GRID = np.arange(16.0).reshape(4, 4)
XS, YS = [f"{rate:g}" for rate in RATES], [f"{decay:g}" for decay in DECAYS]


def heat(higher_is_better: bool | None, note: str | None = None, **panels: np.ndarray) -> Figure:
    return plots.heat_maps(panels, XS, YS, "learning rate", "weight decay", "Grid", "mean IoU", higher_is_better, note)


def outlined(axes: Axes) -> list[tuple[int, int]]:
    """Row and column of each outlined cell."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(round(box.get_y() + box.get_height() / 2), round(box.get_x() + box.get_width() / 2)) for box in boxes]


def over(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, pruned: np.ndarray | None = None, higher_is_better: bool = True
) -> Figure:
    none = np.zeros(len(x), bool)
    return plots.plane(
        x, y, values, none if pruned is None else pruned, "learning rate", "weight decay", "t", "mean IoU",
        higher_is_better, NOTE,
    )  # fmt: skip


def contours(figure: Figure) -> list[TriContourSet]:
    return [each for each in figure.axes[0].collections if isinstance(each, TriContourSet)]


def ends(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def marked(axes: Axes, marker: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_marker() == marker]


def tick_places(axes: Axes) -> dict[str, float]:
    return {
        tick.get_text(): float(place) for tick, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }


def test_each_cell_shows_its_value_where_it_belongs() -> None:
    values = GRID / 100
    values[3, 1] = math.nan
    figure = heat(True, NOTE, ours=values, report=1 - values)
    ours, report, bar = figure.axes
    assert [ours.get_title(), report.get_title(), bar.get_ylabel()] == ["ours", "report", "mean IoU"]
    for axes, panel in ((ours, values), (report, 1 - values)):
        written = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
        assert written == {
            place: "–" if math.isnan(value) else f"{value:.3f}" for place, value in np.ndenumerate(panel)
        }
    assert [tick.get_text() for tick in ours.get_xticklabels()] == XS
    assert [tick.get_text() for tick in ours.get_yticklabels()] == YS
    low, high = ours.get_ylim()
    assert low < high  # the first row at the bottom
    assert_fits(figure)


def test_the_best_cells_are_outlined() -> None:
    values = GRID.copy()
    values[3, 3] = math.nan
    tied = np.where(GRID == 5, 14, values)
    assert [outlined(axes) for axes in heat(True, a=values, b=tied).axes[:2]] == [[(3, 2)], [(1, 1), (3, 2)]]
    assert outlined(heat(False, a=values).axes[0]) == [(0, 0)]
    assert outlined(heat(None, a=values).axes[0]) == []
    assert outlined(heat(True, a=np.full((4, 4), math.nan)).axes[0]) == []


def test_panels_share_their_colours_and_better_is_brighter() -> None:
    for higher_is_better in (True, False):
        figure = heat(higher_is_better, a=GRID, b=GRID + 4)
        images = [axes.images[0] for axes in figure.axes[:2]]
        assert [image.get_clim() for image in images] == [(0, 19), (0, 19)]
        best, worst = (19, 0) if higher_is_better else (0, 19)
        assert sum(images[0].cmap(images[0].norm(np.array(best)))[:3]) > sum(
            images[0].cmap(images[0].norm(np.array(worst)))[:3]
        )


@pytest.mark.parametrize(("higher_is_better", "far"), [(False, 87.3), (True, -87.3), (None, 87.3), (None, -87.3)])
def test_one_diverged_cell_does_not_flatten_the_others(higher_is_better: bool | None, far: float) -> None:
    values = 0.4 + GRID / 100
    values[3, 0] = far
    figure = heat(higher_is_better, a=values)
    low, high = figure.axes[0].images[0].get_clim()
    assert high - low < 1
    assert low <= 0.4 < 0.55 <= high
    (bar,) = [axes for axes in figure.axes if axes.get_ylabel() == "mean IoU"]
    assert bar._colorbar.extend == ("max" if far > 0 else "min")  # type: ignore[attr-defined]
    assert f"{far:.3f}" in texts(figure)
    assert_fits(figure)
    assert heat(higher_is_better, a=0.4 + GRID / 100).axes[-1]._colorbar.extend == "neither"  # type: ignore[attr-defined]


def test_text_can_be_read_on_every_colour() -> None:
    def luminance(colour: tuple[float, ...]) -> float:
        """Of WCAG 2.1, section 1.4.3."""
        channels = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour[:3]]
        return float(np.dot(channels, (0.2126, 0.7152, 0.0722)))

    for shade in matplotlib.colormaps["viridis"](np.linspace(0, 1, 256)):
        dark, bright = sorted([luminance(tuple(shade)), luminance(to_rgb(_ink(shade)))])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_heat_maps_fit_with_long_names(count: int) -> None:
    panels = {f"{RUNS[0]} {place}": 1e6 * GRID[:3, :1] for place in range(count)}
    figure = plots.heat_maps(
        panels, ["0.000123456789"], ["0.000123456789", "0", "1"], RUNS[0], RUNS[1], RUNS[2], RUNS[3], False, NOTE
    )
    assert {"4e+06", "8e+06"} < set(texts(figure).split())
    assert_fits(figure)


@pytest.mark.parametrize("value", [math.nan, 0.0, math.inf])
def test_a_heat_map_of_equal_cells_fits(value: float) -> None:
    figure = plots.heat_maps({"": np.full((4, 4), value)}, XS, YS, "x", "y", "t", "l", True)
    assert set(texts(figure).split()) == {f"{value:.3f}" if math.isfinite(value) else "–"}
    assert_fits(figure)


def test_zero_stands_one_decade_below_the_rest_of_a_logarithmic_axis() -> None:
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
def test_ticks_stand_at_the_values_that_they_name(values: list[float]) -> None:
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


def test_trials_are_drawn_by_what_came_of_them() -> None:
    x, y = 10.0 ** -np.arange(1, 8), 10.0 ** -np.array([3, 1, 4, 1, 5, 2, 6])
    values = np.array([0.5, 0.7, 0.6, 0.9, 0.4, math.nan, math.nan])
    pruned = np.array([0, 0, 0, 1, 0, 0, 1], bool)
    for higher_is_better, best in ((True, 1), (False, 4)):
        figure = over(x, y, values, pruned, higher_is_better)
        axes = figure.axes[0]
        points = axes.collections[-1]
        assert np.asarray(points.get_array()).tolist() == [0.5, 0.7, 0.6, 0.4]
        (crosses,), (star,), (bare,) = (marked(axes, marker) for marker in "x*o")
        assert ends(crosses) == (np.log10(x[pruned]).tolist(), np.log10(y[pruned]).tolist())
        assert ends(star) == ([math.log10(x[best])], [math.log10(y[best])])
        assert ends(bare) == ([math.log10(x[5])], [math.log10(y[5])])
        assert legend(figure) == ["complete (4)", f"best: {values[best]:.3f}", "pruned (2)", "no value (1)"]
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
def test_a_plane_without_complete_trials_has_no_colours(count: int) -> None:
    x = 10.0 ** -np.arange(count)
    for pruned in (True, False):
        figure = over(x, x, np.full(count, math.nan), np.full(count, pruned))
        assert len(figure.axes) == 1
        assert_fits(figure)


def test_one_trial_is_the_best() -> None:
    figure = over(np.array([0.01]), np.array([0.0]), np.array([0.5]))
    assert legend(figure) == ["complete (1)", "best: 0.500"]
    assert_fits(figure)


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
        assert 0.8 < high < 2  # the best of both is seen
        (clipped,) = marked(axes, marker)
        out = [place for place, value in enumerate(values) if value > high]
        assert out[0] == 0
        assert ends(clipped) == ([20.0 * (place + 1) for place in out], [sign * high] * len(out))
        assert legend(figure) == ["a", "b", "trial beyond the scale"]
        assert_fits(figure)


@pytest.mark.parametrize("values", [[], [0.5], [math.nan], [math.nan] * 3, [0.5] * 3, [math.inf, 0.5], [-math.inf] * 2])
def test_a_history_of_little_fits(values: list[float]) -> None:
    assert_fits(history(True, a=values, b=[]))


def test_eight_searches_with_long_names_fit() -> None:
    assert_fits(plots.search_history(dict.fromkeys(RUNS, (np.arange(3), np.arange(3.0))), RUNS[0], "y", False, NOTE))


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


def test_curves_end_as_their_trials_did() -> None:
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
    assert [ends(line) for line in marked(axes, "x")] == [([2], [0.25]), ([1], [0.3]), ([1], [0.1])]
    assert legend(figure) == ["complete (1)", "pruned (2)", "failed (3)"]
    assert axes.get_yscale() == "linear"
    assert_fits(figure)


def test_a_diverged_curve_does_not_flatten_the_others() -> None:
    usual = [("a", [1.0, 0.5, 0.4], "complete")] * 59
    figure = plots.trial_curves([*usual, ("z", [3.0, 1e9, math.inf, math.nan], "failed")], "t", "nats")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[1] < 10
    (cross,) = marked(axes, "x")
    assert ends(cross) == ([3], [5])
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


def beaten(x: np.ndarray, y: np.ndarray, higher: tuple[bool, bool]) -> np.ndarray:
    points = np.stack([x, y], axis=1) * np.where(higher, 1, -1)
    return np.array([any((other >= point).all() and (other > point).any() for other in points) for point in points])


@pytest.mark.parametrize("higher", [(True, True), (True, False), (False, True), (False, False)])
def test_the_staircase_parts_what_is_beaten_from_what_is_not(higher: tuple[bool, bool]) -> None:
    x, y = np.random.default_rng(5).random((2, 25))
    front = ~beaten(x, y, higher)
    names = [f"lr {place}" for place in range(25)]
    figure = plots.pareto(x, y, front, names, "mIoU", "ECE", "t", higher)
    (axes,) = figure.axes
    stairs, others = axes.lines
    assert ends(others) == (x[~front].tolist(), y[~front].tolist())
    assert sorted(ends(stairs)[0]) == ends(stairs)[0] == sorted(x[front])
    assert stairs.get_drawstyle() in ("steps-pre", "steps-post")
    for (left, first), (right, second) in pairwise(zip(*ends(stairs), strict=True)):
        # What lies at the corner of a step is beaten by both its ends.
        corner = (left, second) if stairs.get_drawstyle() == "steps-pre" else (right, first)
        assert beaten(np.array([left, right, corner[0]]), np.array([first, second, corner[1]]), higher)[2]
    assert axes.get_xlabel() == f"mIoU ({'higher' if higher[0] else 'lower'} is better)"
    assert axes.get_ylabel() == f"ECE ({'higher' if higher[1] else 'lower'} is better)"
    assert sorted(texts(figure).split("\n")) == sorted(name for name, kept in zip(names, front, strict=True) if kept)
    assert legend(figure) == [f"nothing beats it ({front.sum()})", f"beaten ({(~front).sum()})"]
    assert_fits(figure)


@pytest.mark.parametrize("higher", [(True, True), (False, True)])
@pytest.mark.parametrize("count", [2, 8, 12])
def test_names_of_the_front_cover_neither_each_other_nor_points(higher: tuple[bool, bool], count: int) -> None:
    turn = np.linspace(0.1, 1.4, count)
    x, y = np.cos(turn) * (1 if higher[0] else -1), np.sin(turn)
    names = [RUNS[place % 8] if count < 12 else f"trial {place} · lr 0.00123 · wd 1e-05" for place in range(count)]
    figure = plots.pareto(x, y, np.ones(count, bool), names, "a", "b", "t", higher)
    assert_fits(figure)
    (axes,) = figure.axes
    # Without their strokes to the points.
    boxes = [super(Annotation, text).get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert len(boxes) == count
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])
        assert not any(box.contains(*spot) for spot in axes.transData.transform(np.stack([x, y], axis=1)))
        assert box.x0 > 0
        assert box.x1 < figure.bbox.width


@pytest.mark.parametrize("count", [0, 1])
def test_a_front_of_little_fits(count: int) -> None:
    some = np.ones(count)
    assert_fits(plots.pareto(some, some, some == 1, RUNS[:count], "a", "b", "t", (True, False)))
    none = plots.pareto(np.ones(2), np.arange(2.0), np.zeros(2, bool), ["a", "b"], RUNS[0], RUNS[1], "t", (True, False))
    assert texts(none) == ""
    assert_fits(none)


def test_shares_are_steps_in_percent_with_marks() -> None:
    x, share = np.array([0.0, 20.0, 40.0]), np.array([0.0, 0.25, 1.0])
    figure = plots.fraction_reached({"grid": (x, share), "tpe": (x, share / 2)}, [10, 30], "t", "epochs", "share", NOTE)
    (axes,) = figure.axes
    grid, tpe, *marks = axes.lines
    assert [ends(line) for line in (grid, tpe)] == [(x.tolist(), share.tolist()), (x.tolist(), (share / 2).tolist())]
    assert grid.get_drawstyle() == "steps-post"
    assert [(ends(mark)[0], mark.get_linestyle()) for mark in marks] == [([10, 10], ":"), ([30, 30], ":")]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert legend(figure) == ["grid", "tpe"]
    assert_fits(figure)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_up_to_ten_methods_are_told_apart(count: int) -> None:
    names = [f"{RUNS[place % 8]} · {place}" for place in range(count)]
    curves = dict.fromkeys(names, (np.arange(3), np.zeros(3))) | {"nothing": (np.empty(0), np.empty(0))}
    figure = plots.fraction_reached(curves, [], RUNS[0], "epochs", "share", NOTE)
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == count + 1
    assert legend(figure) == [*names, "nothing"]
    assert_fits(figure)
