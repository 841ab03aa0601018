"""Risk-coverage curves show the given numbers."""

import numpy as np

from segmentation import plots
from tests.segmentation.plots.drawn import NOTE, RUNS, assert_fits, legend

COVERAGE = np.array([0.25, 0.5, 1.0])
RISK = np.array([0.0, 0.1, 0.3])


def test_lines_bands_and_areas_are_those_given() -> None:
    series = {"unet": (COVERAGE, RISK), "fcn": (COVERAGE, RISK / 2)}
    figure = plots.risk_coverage(series, "t", {"unet": "AURC 0.1200"}, {"fcn": (RISK / 4, RISK)}, NOTE)
    (axes,) = figure.axes
    for line, (coverage, risk) in zip(axes.lines, series.values(), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == coverage.tolist()
        assert np.asarray(line.get_ydata()).tolist() == risk.tolist()
    (band,) = axes.collections
    corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).tolist()}
    assert corners == {*zip(COVERAGE, RISK / 4, strict=True), *zip(COVERAGE, RISK, strict=True)}
    assert legend(figure) == ["unet · AURC 0.1200", "fcn"]
    assert_fits(figure)


def test_empty_and_nan_curves_are_drawn() -> None:
    nan = np.full(3, np.nan)
    for series in ({}, {"a": (nan, nan)}, {"a": (nan[:0], nan[:0])}, {"a": (np.array([1.0]), np.array([0.0]))}):
        assert_fits(plots.risk_coverage(series, "t", bands={name: (ends[1], ends[1]) for name, ends in series.items()}))


def test_eight_long_names_fit() -> None:
    series = dict.fromkeys(RUNS, (COVERAGE, RISK))
    figure = plots.risk_coverage(series, RUNS[0], dict.fromkeys(RUNS, "AURC 0.1234 [0.1111, 0.1357]"), note=NOTE)
    assert legend(figure) == [f"{name} · AURC 0.1234 [0.1111, 0.1357]" for name in RUNS]
    assert_fits(figure)
