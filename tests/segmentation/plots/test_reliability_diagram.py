"""Reliability diagrams show the numbers of their bins."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle, StepPatch

from segmentation import plots
from segmentation.scoring.bootstrap import Interval
from tests.segmentation.plots.drawn import NO_PIXELS, NOTE, RUNS, assert_fits, bins, legend, strokes, texts


def heights(axes: Axes, hatch: str | None = None) -> list[float]:
    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [patch.get_height() for patch in rectangles if patch.get_hatch() == hatch]


def test_reliability_bars_are_the_numbers_of_the_bins() -> None:
    numbers = bins()
    figure = plots.reliability(numbers, "a title", Interval(0.0123, 0.0456))
    top, bottom = figure.axes
    filled = numbers.count > 0
    assert heights(top) == numbers.accuracy[filled].tolist()
    np.testing.assert_allclose(heights(top, "///"), -numbers.gap[filled], atol=1e-12)
    assert heights(bottom) == numbers.fraction[filled].tolist()
    assert f"ECE {numbers.ece():.4f} [0.0123, 0.0456]" in top.get_title()
    assert f"MCE {numbers.mce():.4f}" in top.get_title()
    assert f"over-confident by {-numbers.signed_gap():.4f}" in top.get_title()
    assert figure.get_suptitle() == "a title"


def test_a_bin_fades_with_its_fraction_of_the_pixels() -> None:
    numbers = bins()  # 4, 10, 20, 30 and 936 of 1,000 pixels
    top = plots.reliability(numbers, "t").axes[0]
    bars = [patch for patch in top.patches if isinstance(patch, Rectangle) and patch.get_hatch() is None]
    strengths = [float(bar.get_alpha() or 0) / 0.7 for bar in bars]
    np.testing.assert_allclose(strengths, [np.sqrt(n / 50) for n in (4, 10, 20, 30)] + [1])
    np.testing.assert_allclose(top.collections[-1].get_facecolor()[:, 3], strengths)  # type: ignore[index]
    assert "MCE 0.1600 (in a bin with 2 % of the pixels)" in top.get_title()


def test_the_band_is_drawn_at_the_filled_bins_alone() -> None:
    numbers = bins()
    low, high = numbers.accuracy - 0.1, numbers.accuracy + 0.05
    figure = plots.reliability(numbers, "t", band=(low, high))
    filled = numbers.count > 0
    wanted = [[[x, a], [x, b]] for x, a, b in zip(numbers.confidence[filled], low[filled], high[filled], strict=True)]
    assert strokes(figure.axes[0]) == wanted
    assert not strokes(plots.reliability(numbers, "t").axes[0])


def test_the_note_is_below_the_plots() -> None:
    figure = plots.reliability(bins(), "t", note=NOTE)
    assert figure.texts[-1].get_text().replace("\n", " ") == NOTE
    assert_fits(figure)


def test_an_interval_without_its_accuracy_or_with_nan_is_drawn() -> None:
    numbers = bins()
    plots.pixels(plots.reliability(numbers, "t", band=(numbers.accuracy + 0.01, numbers.accuracy + 0.02)))
    plots.pixels(plots.reliability(numbers, "t", band=(np.full(10, np.nan), np.full(10, np.nan))))


def test_diagrams_without_pixels_say_so() -> None:
    nan = np.full(10, np.nan)
    single = plots.reliability(NO_PIXELS, "t", Interval(np.nan, np.nan), (nan, nan), NOTE)
    assert single.axes[0].get_title() == "no pixels"
    assert not single.legends
    lines = plots.reliability_lines({"nowhere": NO_PIXELS}, "t", {"nowhere": (nan, nan)})
    assert legend(lines) == ["perfect calibration", "nowhere · no pixels"]
    assert not lines.axes[1].patches
    panels = plots.reliability_panels({"nowhere": NO_PIXELS}, "t")
    assert texts(panels) == "no pixels"
    for figure in (single, lines, panels, plots.reliability_panels({}, "t"), plots.reliability_lines({}, "t")):
        assert_fits(figure)


def test_panels_show_each_group_with_its_fraction_of_all_pixels() -> None:
    first, second = bins(), bins(3)
    figure = plots.reliability_panels({"road": first, "sky": second, "car": NO_PIXELS}, "a title", NOTE)
    road, sky, car = figure.axes
    assert [axes.get_title(loc="left") for axes in (road, sky, car)] == ["road", "sky", "car"]
    assert heights(road) == first.accuracy[first.count > 0].tolist()
    lean = f"ECE {first.ece():.3f}, over-confident by {-first.signed_gap():.3f}"
    assert road.texts[0].get_text() == f"25.0% of pixels\n{lean}"
    assert sky.texts[0].get_text().startswith("75.0% of pixels")
    assert car.texts[0].get_text() == "no pixels"
    assert figure.get_suptitle() == "a title"
    assert_fits(figure)


@pytest.mark.parametrize("count", [2, 12])
def test_panels_fit_for_any_number(count: int) -> None:
    figure = plots.reliability_panels({f"a class called {place}": bins() for place in range(count)}, RUNS[0], NOTE)
    assert sum(axes.axison for axes in figure.axes) == count
    assert_fits(figure)


def test_lines_run_through_the_bins_of_each_series() -> None:
    before, after = bins(), bins(2)
    band = before.accuracy - 0.1, before.accuracy + 0.05
    figure = plots.reliability_lines({"before": before, "after": after}, "t", {"before": band})
    top, bottom = figure.axes
    filled = before.count > 0
    _, few, first, _, second = top.lines
    for line, shown in ((few, before.fraction < 0.01), (first, before.fraction >= 0.01)):
        assert np.asarray(line.get_xdata()).tolist() == before.confidence[filled & shown].tolist()
        assert np.asarray(line.get_ydata()).tolist() == before.accuracy[filled & shown].tolist()
    assert few.get_linestyle() == "None"
    assert first.get_color() != second.get_color()
    wanted = [
        [[x, a], [x, b]]
        for x, a, b, part in zip(before.confidence, *band, before.fraction, strict=True)
        if part >= 0.01
    ]
    assert strokes(top) == wanted
    shares = [patch.get_data().values.tolist() for patch in bottom.patches if isinstance(patch, StepPatch)]
    assert shares == [before.fraction.tolist(), after.fraction.tolist()]
    assert legend(figure)[1:] == [f"before · ECE {before.ece():.4f}", f"after · ECE {after.ece():.4f}"]


@pytest.mark.parametrize("count", [1, 8])
def test_lines_of_runs_with_long_names_fit(count: int) -> None:
    figure = plots.reliability_lines(dict.fromkeys(RUNS[:count], bins()), RUNS[0], note=NOTE)
    assert legend(figure)[1:] == [f"{name} · ECE {bins().ece():.4f}" for name in RUNS[:count]]
    assert_fits(figure)
