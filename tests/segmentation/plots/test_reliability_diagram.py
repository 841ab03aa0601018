"""Reliability diagrams show the numbers of their bins."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from segmentation import plots
from segmentation.scoring.bootstrap import Interval
from segmentation.scoring.reliability import Bins
from tests.segmentation.plots.drawn import NO_PIXELS, NOTE, RUNS, assert_fits, bins, legend, strokes, texts


def heights(axes: Axes, hatch: str | None = None) -> list[float]:
    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [patch.get_height() for patch in rectangles if patch.get_hatch() == hatch]


def test_reliability_bars_are_the_numbers_of_the_bins() -> None:
    numbers = bins()
    figure = plots.reliability(numbers, "a title", Interval(0.0123, 0.0456), gap=Interval(-0.05, -0.01))
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
    gaps = {"road": Interval(-0.05, -0.01), "sky": Interval(-0.05, 0.01), "car": Interval(np.nan, np.nan)}
    figure = plots.reliability_panels({"road": first, "sky": second, "car": NO_PIXELS}, "a title", NOTE, gaps)
    road, sky = figure.axes
    assert [axes.get_title(loc="left") for axes in (road, sky)] == ["road", "sky"]
    assert heights(road) == first.accuracy[first.count > 0].tolist()
    of_road = f"25.0% of pixels, ECE {first.ece():.4f}"
    assert road.texts[0].get_text() == f"{of_road}\nover-confident by {-first.signed_gap():.4f}"
    assert sky.texts[0].get_text().startswith("75.0% of pixels")
    assert sky.texts[0].get_text().endswith("\nno over- or under-confidence shown")
    without = plots.reliability_panels({"road": first}, "t").axes[0].texts[0].get_text()
    assert without.endswith(f"\naccuracy − confidence {first.signed_gap():+.4f}"), "its interval is unknown"
    assert any(each.get_text().startswith("no pixels: car · ") for each in figure.texts)
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
    bars = [patch for patch in bottom.patches if isinstance(patch, Rectangle)]
    assert [bar.get_height() for bar in bars] == [*before.fraction.tolist(), *after.fraction.tolist()]
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(spans)), "no bar hides another"
    in_bins = [int(bar.get_x() * 10) for bar in bars]
    assert in_bins == [*range(10), *range(10)]
    few_pixels = "bin with < 1% of the pixels"
    assert legend(figure)[1:] == [f"before · ECE {before.ece():.4f}", f"after · ECE {after.ece():.4f}", few_pixels]


def test_markers_at_the_edges_are_not_clipped() -> None:
    count = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 500])
    edges = Bins(count, np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 500.0]), count)
    band = np.full(10, 0.9), np.ones(10)
    lines = plots.reliability_lines({"a": edges}, "t", {"a": band}).axes[0]
    assert [line.get_clip_on() for line in lines.lines[1:]] == [False, False]
    points = plots.reliability(edges, "t", band=band).axes[0].collections[-1]
    assert not points.get_clip_on()


def test_the_title_names_a_lean_only_where_its_interval_excludes_zero() -> None:
    numbers = bins()
    gap = numbers.signed_gap()

    def title(ends: Interval | None) -> str:
        return plots.reliability(numbers, "t", gap=ends).axes[0].get_title()

    assert f"over-confident by {-gap:.4f}" in title(Interval(-0.05, -0.001))
    for ends in (Interval(-0.05, 0.001), Interval(np.nan, np.nan)):
        assert "no over- or under-confidence shown" in title(ends)
        assert "over-confident by" not in title(ends)
    assert f"accuracy − confidence {gap:+.4f}" in title(None)


@pytest.mark.parametrize("count", [1, 8])
def test_lines_of_runs_with_long_names_fit(count: int) -> None:
    figure = plots.reliability_lines(dict.fromkeys(RUNS[:count], bins()), RUNS[0], note=NOTE)
    assert legend(figure)[1:-1] == [f"{name} · ECE {bins().ece():.4f}" for name in RUNS[:count]]
    assert_fits(figure)
