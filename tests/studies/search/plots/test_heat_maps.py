"""Heat maps show each value in its cell and mark the best trial."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from studies.search import plots
from tests.segmentation.plots.drawn import NOTE, RUNS, assert_fits, legend, texts
from tests.studies.search.plots.drawn import DECAYS, GRID, RATES

XS, YS = [f"{rate:g}" for rate in RATES], [f"{decay:g}" for decay in DECAYS]


def heat(
    higher_is_better: bool | None,
    note: str | None = None,
    best: tuple[int, int] | None = None,
    **panels: np.ndarray,
) -> Figure:
    return plots.heat_maps(
        panels, XS, YS, "learning rate", "weight decay", "Grid", "mean IoU", higher_is_better, best,
        "trial 3, best by val/loss", note,
    )  # fmt: skip


def outlined(axes: Axes) -> list[tuple[int, int]]:
    """Row and column of each outlined cell."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(round(box.get_y() + box.get_height() / 2), round(box.get_x() + box.get_width() / 2)) for box in boxes]


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


@pytest.mark.parametrize("higher_is_better", [True, False, None])
def test_the_best_trial_is_marked_whatever_the_map_shows(higher_is_better: bool | None) -> None:
    figure = heat(higher_is_better, best=(1, 2), ours=GRID, report=GRID)
    assert [outlined(axes) for axes in figure.axes[:2]] == [[(1, 2)], []]
    assert legend(figure) == ["trial 3, best by val/loss"]
    assert_fits(figure)
    assert outlined(heat(higher_is_better, ours=GRID).axes[0]) == []


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


@pytest.mark.parametrize("count", [1, 3])
def test_heat_maps_fit_with_long_names(count: int) -> None:
    panels = {f"{RUNS[0]} {place}": 1e6 * GRID[:3, :1] for place in range(count)}
    figure = plots.heat_maps(
        panels, ["0.000123456789"], ["0.000123456789", "0", "1"], RUNS[0], RUNS[1], RUNS[2], RUNS[3], False, note=NOTE
    )
    assert {"4e+06", "8e+06"} < set(texts(figure).split())
    assert_fits(figure)


@pytest.mark.parametrize("value", [math.nan, 0.0, math.inf])
def test_a_heat_map_of_equal_cells_fits(value: float) -> None:
    figure = plots.heat_maps({"": np.full((4, 4), value)}, XS, YS, "x", "y", "t", "l", True)
    assert set(texts(figure).split()) == {f"{value:.3f}" if math.isfinite(value) else "–"}
    assert_fits(figure)
